"""Classification of images by a discriminator with class logits, and its test error.

Shapes: N images, R resolution, K classes.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from biggan.runtime.constraints import PositiveInt, check_fields
from biggan.runtime.errors import NonFiniteScore
from biggan.runtime.precision import uint8_to_float, without_tf32


class Classifier:
    """A discriminator with class logits, in evaluation mode, as a classifier of uint8 images."""

    def __init__(self, network: nn.Module, device: torch.device, class_names: tuple[str, ...]) -> None:
        self.network, self.device, self.class_names = network, device, class_names

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Class logits (N, K) float32 of uint8 images (N, 3, R, R). If the network has minibatch features, they are computed
        among these images. Raises NonFiniteScore where a logit is not finite, since the largest would then be any class."""
        x = uint8_to_float(images.to(self.device))  # (N, 3, R, R)
        labels = torch.zeros(len(x), dtype=torch.int64, device=self.device)  # unused: class_logits do not depend on labels
        with without_tf32():
            logits_NK = self.network(x, labels).class_logits[:, : len(self.class_names)]  # without a class "generated"
        if not logits_NK.isfinite().all():
            image = int((~logits_NK.isfinite()).any(1).nonzero()[0])
            raise NonFiniteScore(f"the classifier gives logits that are not finite for image {image} of {len(images)}")
        return logits_NK

    def predictions(self, batches: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """For each uint8 batch, the most likely class (N,) and its softmax probability (N,), on the CPU."""
        for images in batches:
            probability_N, class_N = self.logits(images).softmax(1).max(1)
            yield class_N.cpu(), probability_N.cpu()


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig:
    """Tests of the discriminator's weight average (see train.discriminator_ema_decay) as a classifier during training."""

    test_data: str | None = None
    """Data source of labeled test images that are not used for training, such as folder:DIR; None: no tests."""
    every: PositiveInt = 1000
    """Generator steps between tests; there is also one at the end of training."""

    def check(self) -> None:
        """Raises ConfigError if a field is out of its range."""
        check_fields(self, "classify")


class ClassificationErrors(NamedTuple):
    """Number of wrongly classified images among a number of images."""

    wrong: int
    images: int

    @property
    def percent(self) -> float:
        """Error rate in percent."""
        return 100 * self.wrong / self.images


def count_errors(classifier: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> ClassificationErrors:
    """Count the classification errors over batches of images and labels (N,). `classifier` is a function from uint8 images
    (N, 3, R, R) to class logits (N, K)."""
    wrong = images = 0
    for x, y_N in batches:
        wrong += int((classifier(x).argmax(1).cpu() != y_N.cpu()).sum())
        images += len(y_N)
    return ClassificationErrors(wrong, images)
