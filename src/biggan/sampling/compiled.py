"""A generator through torch.compile, for sampling many images."""

import os
import shutil

import torch
from torch import Tensor, nn

from biggan.runtime.errors import ConfigError


class Compiled:
    """A network that will not change, of (z (N, Z), y (N,)), through torch.compile. Smaller batches are filled up to the
    largest one seen, so that it is compiled once, in the first call: seconds to minutes."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        """Raises ConfigError where there is no C++ compiler for the CPU."""
        compilers = (os.environ.get("CXX", "g++"), "clang++")
        if device.type == "cpu" and not any(map(shutil.which, compilers)):
            raise ConfigError("compiling for the CPU needs a C++ compiler and finds none: install g++, or do without")
        self.network = torch.compile(network, dynamic=False)
        self.batch = 0

    def __call__(self, z_NZ: Tensor, y_N: Tensor) -> Tensor:
        count = len(z_NZ)
        self.batch = max(self.batch, count)
        places = torch.arange(self.batch, device=z_NZ.device).clamp(max=count - 1)
        return self.network(z_NZ[places], y_N[places])[:count]
