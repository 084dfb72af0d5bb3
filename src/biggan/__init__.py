"""biggan: train, sample, measure and understand large class-conditional GANs."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from biggan.data.dataset import open_source as open_source
    from biggan.pretrained import from_pretrained as from_pretrained
    from biggan.runtime.errors import BigganError as BigganError
    from biggan.runtime.errors import TrainingDiverged as TrainingDiverged
    from biggan.runtime.errors import UserError as UserError
    from biggan.sampling.sampler import Sampler as Sampler
    from biggan.sampling.sampler import Samples as Samples

__version__ = "0.2.0"

HOMES = {
    "BigganError": "biggan.runtime.errors",
    "Sampler": "biggan.sampling.sampler",
    "Samples": "biggan.sampling.sampler",
    "TrainingDiverged": "biggan.runtime.errors",
    "UserError": "biggan.runtime.errors",
    "from_pretrained": "biggan.pretrained",
    "open_source": "biggan.data.dataset",
}
"""Where each public name is defined. It is imported when it is first used, so that the command line can answer, or be
interrupted, before PyTorch is loaded."""

__all__ = list(HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """A public name, imported from its home. Raises AttributeError on any other."""
    if name not in HOMES:
        raise AttributeError(f"module 'biggan' has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *HOMES])
