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
    """Watches the gradients of both networks. `found`, a float32 scalar on the device, is 1 from the first bad step on."""

    def __init__(self, device: torch.device) -> None:
        self.found = torch.zeros((), device=device)
        self.step = torch.zeros((), device=device)
        self.bad: dict[str, Tensor] = {}
        self.names: dict[str, list[str]] = {}
        self.norms: dict[str, Tensor] = {}

    @torch.no_grad()
    def check(self, network: str, names: Sequence[str], gradients: Sequence[Tensor], step: int) -> Tensor:
        """Look at one network's gradients before its optimizer steps; returns `found`, for the optimizer to obey."""
        self.norms[network] = torch.stack(torch._foreach_norm(list(gradients)))  # finite only if every value is
        bad = ~self.norms[network].isfinite()
        before = self.found > 0
        self.step = torch.where(before, self.step, torch.full_like(self.step, step))
        self.bad[network] = torch.where(before, self.bad.get(network, torch.zeros_like(bad)), bad)
        self.names[network] = list(names)
        self.found = torch.maximum(self.found, bad.any().float())
        return self.found

    def gradient_norms(self, network: str) -> dict[str, float]:
        """The norm of each gradient of a network's last optimizer step, by parameter. Waits for the device."""
        if network not in self.norms:
            return {}
        return dict(zip(self.names[network], self.norms[network].tolist(), strict=True))

    def first_bad(self) -> tuple[int, str] | None:
        """The step and the name of the first gradient that was not finite, or None. Waits for the device."""
        if not self.found.item():
            return None
        for network, bad in self.bad.items():
            if bad.any():
                index = int(bad.float().argmax())
                return int(self.step.item()), f"gradient of {network}/{self.names[network][index]}"
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
