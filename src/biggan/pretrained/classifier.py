"""The discriminator of a semi-supervised run as a classifier of images.

Source: Salimans et al. 2016, section 5: the class logits of D, with averaged weights, without dropout or noise.
"""

from pathlib import Path

from biggan.checkpoints.run_model import open_model
from biggan.metrics.classification import Classifier
from biggan.models.registry import FAMILIES
from biggan.runtime.errors import CheckpointError
from biggan.runtime.precision import DeviceName, choose_precision


def open_classifier(path: Path, device: DeviceName = "auto") -> Classifier:
    """The classifier of a run folder or a model folder, in float32. Raises CheckpointError where the folder has none."""
    folder = open_model(path)
    network = FAMILIES[folder.card.model.family].discriminator(folder.card.model)
    if not folder.load_into(network, "classifier"):
        raise CheckpointError(
            f"{path} holds no classifier: train one, by a preset such as improved-mnist (--train.discriminator-ema-decay)"
        )
    precision = choose_precision(device, "fp32", "channels-last")
    return Classifier(precision.place(network).eval().requires_grad_(False), precision.device, folder.card.class_names)
