"""A generator for sampling through torch.compile."""

import os
import shutil

import torch
from torch import Tensor, nn

from biggan.runtime.errors import ConfigError


class CompiledGenerator:
    """A generator whose weights no longer change, called through torch.compile as images = generator(z (N, Z), y (N,)).

    The first call compiles, which takes seconds to minutes. A smaller batch than the largest so far is padded to that size,
    because another batch size would compile again."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        """Raises ConfigError where the device is the CPU and there is no C++ compiler."""
        compilers = (os.environ.get("CXX", "g++"), "clang++")
        if device.type == "cpu" and not any(map(shutil.which, compilers)):
            raise ConfigError("compiling for the CPU needs a C++ compiler and finds none: install g++, or do without")
        self.network = torch.compile(network, dynamic=False)
        self.batch_size = 0

    def __call__(self, z_NZ: Tensor, y_N: Tensor) -> Tensor:
        count = len(z_NZ)
        self.batch_size = max(self.batch_size, count)
        indices = torch.arange(self.batch_size, device=z_NZ.device).clamp(max=count - 1)  # the last sample is repeated
        return self.network(z_NZ[indices], y_N[indices])[:count]  # (N, 3, R, R)
