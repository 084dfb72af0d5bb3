"""Disabling autocast for operations that need float32."""

from contextlib import AbstractContextManager, nullcontext

import torch


def is_autocast_enabled(device: torch.device) -> bool:
    """Whether autocast is on for the device type; never on the meta device."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Context in which autocast is off for the device type, so that float32 inputs give float32 results.

    Where autocast is off already, or on the meta device, an empty context without cost."""
    if not is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
