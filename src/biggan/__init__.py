"""biggan: train, sample, measure and understand large class-conditional GANs."""

from biggan.data.dataset import open_source
from biggan.pretrained import from_pretrained
from biggan.runtime.errors import BigganError, TrainingDiverged, UserError
from biggan.sampling.sampler import Sampler, Samples

__version__ = "0.2.0"
__all__ = [
    "BigganError",
    "Sampler",
    "Samples",
    "TrainingDiverged",
    "UserError",
    "from_pretrained",
    "open_source",
]
