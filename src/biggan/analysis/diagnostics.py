"""Diagnostics of a trained model: which classes its samples are confused with, and whether its discriminator has memorized
the training images.

Sources: BigGAN section 4.2 (memorization) and Figure 4d (class leakage). Shapes: N images, K classes, R resolution."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from biggan.metrics.features import Extractor
from biggan.objectives.losses import Objective
from biggan.runtime.errors import ConfigError, NonFiniteScore
from biggan.runtime.precision import uint8_to_float


class ConfusionMatrix(NamedTuple):
    """How a classifier classifies images that were generated for known classes."""

    counts: Tensor
    """(K, K) int64: rows are the requested classes, columns the predicted ones."""
    examples: dict[tuple[int, int], list[Tensor]]
    """Some images (3, R, R) for each (requested, predicted) pair of classes."""


def compute_confusion_matrix(
    batches: Iterable[tuple[Tensor, Tensor]], extractor: Extractor, num_classes: int, max_examples: int = 10
) -> ConfusionMatrix:
    """The confusion matrix of an extractor with class logits over batches of uint8 images (N, 3, R, R) and requested classes
    (N,), with up to `max_examples` images for each pair. Raises ConfigError where the extractor does not have `num_classes`
    logits."""
    counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    examples: dict[tuple[int, int], list[Tensor]] = {}
    for images, labels in batches:
        logits = extractor(images).logits
        if logits is None or logits.shape[1] != num_classes:
            known = 0 if logits is None else logits.shape[1]
            raise ConfigError(f"extractor {extractor.name} knows {known} classes, the model has {num_classes}")
        predicted = logits.argmax(1)
        counts.index_put_((labels, predicted), torch.ones_like(labels), accumulate=True)
        for image, *pair in zip(images, labels.tolist(), predicted.tolist(), strict=True):
            pair_examples = examples.setdefault(tuple(pair), [])
            if len(pair_examples) < max_examples:
                pair_examples.append(image)
    return ConfusionMatrix(counts, examples)


def most_confused_pairs(counts: Tensor, max_pairs: int) -> list[tuple[int, int, float]]:
    """(requested, predicted, fraction of the images requested) for the pairs of different classes that are confused most
    often, in descending order; `counts` (K, K) as in `ConfusionMatrix`."""
    fractions = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    fractions.fill_diagonal_(0)
    values, indices = fractions.flatten().topk(min(max_pairs, fractions.numel()))
    pairs = zip(indices.tolist(), values.tolist(), strict=True)
    return [(*divmod(index, len(counts)), value) for index, value in pairs if value]


@torch.no_grad()
def fraction_classified_as_real(
    discriminator: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device, objective: Objective
) -> float:
    """The fraction of uint8 images (N, 3, R, R) with labels (N,) that a discriminator in evaluation mode classifies as real,
    by the decision boundary of the objective that it was trained with (BigGAN section 4.2: memorization).

    Raises ConfigError where the objective has no decision boundary, NonFiniteScore where a logit is not finite."""
    real, count = 0, 0
    for images, labels in batches:
        x = uint8_to_float(images.to(device))  # (N, 3, R, R)
        logits_N = discriminator(x, labels.to(device)).logits
        if not logits_N.isfinite().all():
            image = count + int((~logits_N.isfinite()).nonzero()[0, 0])
            raise NonFiniteScore(f"the discriminator gives a logit that is not finite for image {image}")
        real += int(objective.classified_as_real(logits_N).sum())
        count += len(labels)
    return real / count
