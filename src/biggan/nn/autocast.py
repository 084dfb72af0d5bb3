"""Disabling autocast for operations that need float32."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Context in which autocast is off for the device type, so that float32 inputs give float32 results.

    Where autocast is off already, or on the meta device, an empty context without cost."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
