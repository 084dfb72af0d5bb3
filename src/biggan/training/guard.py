"""Non-finite values, noticed without waiting for the device.

A gradient that is not finite stops both optimizers on the device itself, in the very step and for good, so the weights stay
what they were before it; the host learns of it when it next looks. Non-finite values are evidence, never repaired.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from biggan.runtime.distributed import on_rank_zero
from biggan.runtime.errors import TrainingDiverged
from biggan.training.async_checkpoint import AsyncCheckpointWriter


class GradientGuard:
    """Watches the gradients of both networks. `found`, a float32 scalar on the device, is 1 from the first bad step on.

    All tensors stay where they are from the first check of a network on, so that a check can be part of a captured step."""

    def __init__(self, device: torch.device) -> None:
        self.found = torch.zeros((), device=device)
        self.names: dict[str, list[str]] = {}
        # Per network the norms of the gradients of its last step and the number of that step, which stay as they are from
        # the first bad step on.
        self.records: dict[str, Tensor] = {}

    @torch.no_grad()
    def check(self, network: str, names: Sequence[str], gradients: Sequence[Tensor], step: Tensor) -> Tensor:
        """Look at one network's gradients before its optimizer steps, `step` being the number of the generator step, a
        float32 scalar on the device; returns `found`, for the optimizer to obey."""
        norms = torch._foreach_norm(list(gradients))  # finite only if every value is
        record = torch.stack([*norms, step])
        if network not in self.records:
            self.names[network], self.records[network] = list(names), record.clone()
        torch.where(self.found > 0, self.records[network], record, out=self.records[network])
        bad = (record * 0 != 0).any()  # infinity times 0 is not a number
        torch.maximum(self.found, bad.float(), out=self.found)
        return self.found

    def gradient_norms(self, network: str) -> dict[str, float]:
        """The norm of each gradient of a network's last optimizer step, by parameter. Waits for the device."""
        if network not in self.records:
            return {}
        return dict(zip(self.names[network], self.records[network].tolist()[:-1], strict=True))

    def first_bad(self) -> tuple[int, str] | None:
        """The step and the name of the first gradient that was not finite, or None. Waits for the device."""
        if not self.found.item():
            return None
        for network, record in self.records.items():
            *norms, step = record.tolist()
            for name, norm in zip(self.names[network], norms, strict=True):
                if not math.isfinite(norm):
                    return int(step), f"gradient of {network}/{name}"
        raise AssertionError("a gradient was found bad, but none is marked")


def tensor_sums(tensors: dict[str, Tensor]) -> dict[str, float]:
    """The sum of each tensor: finite only if every value is. Waits for the device once."""
    device = next(iter(tensors.values())).device
    sums = torch.stack([tensor.sum(dtype=torch.float64).to(device) for tensor in tensors.values()])
    return dict(zip(tensors, sums.tolist(), strict=True))


def raise_if_non_finite(guard: GradientGuard, values: dict[str, float], step: int, writer: AsyncCheckpointWriter) -> None:
    """Raises TrainingDiverged naming the first gradient, or else the first of the values, that is not finite, with the last
    good checkpoint. All ranks hold the same gradients and values, and so agree."""
    bad = guard.first_bad()
    if bad is None:
        bad = next(((step, name) for name, value in values.items() if not math.isfinite(value)), None)
    if bad is not None:
        on_rank_zero(writer.finish)
        checkpoints = writer.run_dir.list_checkpoints()
        raise TrainingDiverged(step=bad[0], quantity=bad[1], last_good=checkpoints[-1] if checkpoints else None)
