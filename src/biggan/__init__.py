"""biggan: train, sample, measure and understand large class-conditional GANs."""

from biggan.data import open_source
from biggan.errors import BigganError, TrainingDiverged, UserError
from biggan.pretrained import from_pretrained
from biggan.sampling import Sampler, Samples

__version__ = "0.1.0"
__all__ = [
    "BigganError",
    "Sampler",
    "Samples",
    "TrainingDiverged",
    "UserError",
    "from_pretrained",
    "open_source",
]
