"""What ends a run early, noticed without waiting for the device: gradients that are not finite, and signals from outside.

A gradient that is not finite stops both optimisers on the device itself, in the very step and for good, so the weights stay
what they were before it; the host learns of it when it next looks. HOUSE: non-finite values are evidence, never repaired.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class GradientGuard:
    """Watches the gradients of both players. `found`, a float32 scalar on the device, is 1 from the first bad step on."""

    def __init__(self, device: torch.device) -> None:
        self.found = torch.zeros((), device=device)
        self.step = torch.zeros((), device=device)
        self.bad: dict[str, Tensor] = {}
        self.names: dict[str, list[str]] = {}
        self.norms: dict[str, Tensor] = {}

    @torch.no_grad()
    def check(self, player: str, names: Sequence[str], gradients: Sequence[Tensor], step: int) -> Tensor:
        """Look at one player's gradients before its optimiser steps; returns `found`, for the optimiser to obey."""
        self.norms[player] = torch.stack(torch._foreach_norm(list(gradients)))  # finite only if every value is
        bad = ~self.norms[player].isfinite()
        before = self.found > 0
        self.step = torch.where(before, self.step, torch.full_like(self.step, step))
        self.bad[player] = torch.where(before, self.bad.get(player, torch.zeros_like(bad)), bad)
        self.names[player] = list(names)
        self.found = torch.maximum(self.found, bad.any().float())
        return self.found

    def gradient_norms(self, player: str) -> dict[str, float]:
        """The length of each gradient of a player's last turn, by name. Waits for the device."""
        return (
            dict(zip(self.names.get(player, []), self.norms[player].tolist(), strict=True)) if player in self.norms else {}
        )

    def first_bad(self) -> tuple[int, str] | None:
        """The step and the name of the first gradient that was not finite, or None. Waits for the device."""
        if not self.found.item():
            return None
        for player, bad in self.bad.items():
            if bad.any():
                index = int(bad.float().argmax())
                return int(self.step.item()), f"gradient of {player}/{self.names[player][index]}"
        raise AssertionError("a gradient was found bad, but none is marked")
