"""The discriminator of a semi-supervised run as what it also is, a classifier: images -> classes.

Source: Salimans et al. 2016, section 5: the class logits of D, with its averaged weights, nothing dropped and no noise
added.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from biggan.checkpoint import ModelFolder
from biggan.errors import CheckpointError
from biggan.models import FAMILIES
from biggan.precision import DeviceName, choose_precision


class Classifier:
    """`network`, a discriminator that gives class logits, in evaluation mode, as a function of uint8 images."""

    def __init__(self, network: nn.Module, device: torch.device, class_names: tuple[str, ...]) -> None:
        self.network, self.device, self.class_names = network, device, class_names

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, R, R) -> (N, K), float32. Minibatch features, where the network has them, compare the images
        given."""
        x = images.to(self.device, torch.float32).div_(127.5).sub_(1)  # (N, 3, R, R) in [-1, 1]
        labels = torch.zeros(len(x), dtype=torch.int64, device=self.device)  # not looked at
        return self.network(x, labels).class_logits_NK[:, : len(self.class_names)]  # without "generated", if it is there

    def predictions(self, batches: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """For uint8 batches: the most likely class (N,), and its probability among the classes (N,), on the CPU."""
        for images in batches:
            probability_N, class_N = self.logits(images).softmax(1).max(1)
            yield class_N.cpu(), probability_N.cpu()


def open_classifier(path: Path, device: DeviceName = "auto") -> Classifier:
    """The classifier of a run folder or a model folder. Raises CheckpointError where there is none."""
    folder = ModelFolder(path)
    weights = folder.load("classifier")
    if weights is None:
        raise CheckpointError(
            f"{path} holds no classifier: train one, by a preset such as improved-mnist (--train.discriminator-average)"
        )
    network = FAMILIES[folder.card.model.family].discriminator(folder.card.model)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"the classifier in {path} does not fit its config.json: {str(error)[:200]}") from error
    place = choose_precision(device, "fp32", "channels-last")
    return Classifier(place.place(network).eval().requires_grad_(False), place.device, folder.card.class_names)
