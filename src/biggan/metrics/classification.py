"""A discriminator as a classifier, and how often it is wrong."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from biggan.runtime.constraints import PositiveInt, check_fields


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
        return self.network(x, labels).class_logits[:, : len(self.class_names)]  # without "generated", if it is there

    def predictions(self, batches: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """For uint8 batches: the most likely class (N,), and its probability among the classes (N,), on the CPU."""
        for images in batches:
            probability_N, class_N = self.logits(images).softmax(1).max(1)
            yield class_N.cpu(), probability_N.cpu()


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig:
    """Testing the averaged discriminator as a classifier while it is trained (see train.discriminator_ema_decay)."""

    test_data: str | None = None
    """A data source of images and classes that the run is not trained on; None: no test."""
    every: PositiveInt = 1000
    """Steps between tests; there is one at the end too."""

    def check(self) -> None:
        """Raises ConfigError on an interval that makes no sense."""
        check_fields(self, "classify")


class ClassificationErrors(NamedTuple):
    """How many of how many images were called another class than theirs."""

    wrong: int
    images: int

    @property
    def percent(self) -> float:
        return 100 * self.wrong / self.images


def count_errors(logits_of: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> ClassificationErrors:
    """Of `logits_of`, uint8 images (N, 3, R, R) -> class logits (N, K), over batches of images and classes (N,)."""
    wrong = images = 0
    for x, y_N in batches:
        wrong += int((logits_of(x).argmax(1).cpu() != y_N.cpu()).sum())
        images += len(y_N)
    return ClassificationErrors(wrong, images)
