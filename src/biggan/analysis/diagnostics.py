"""What a model confuses, and what it has memorized: class leakage, and real images that D classifies as real."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from biggan.metrics.features import Extractor
from biggan.runtime.errors import ConfigError


class Confusion(NamedTuple):
    """Which classes an extractor takes for which."""

    counts: Tensor
    """(K, K): row, the class asked for; column, the one that the extractor names."""
    examples: dict[tuple[int, int], list[Tensor]]
    """Some images (3, R, R) of each pair."""


def confusion(batches: Iterable[tuple[Tensor, Tensor]], extractor: Extractor, classes: int, examples: int = 10) -> Confusion:
    """Raises ConfigError where the extractor knows another number of classes."""
    found = Confusion(torch.zeros(classes, classes, dtype=torch.int64), {})
    for images, labels in batches:
        logits = extractor(images).logits
        if logits is None or logits.shape[1] != classes:
            known = 0 if logits is None else logits.shape[1]
            raise ConfigError(f"extractor {extractor.name} knows {known} classes, the model has {classes}")
        named = logits.argmax(1)
        found.counts.index_put_((labels, named), torch.ones_like(labels), accumulate=True)
        for image, *pair in zip(images, labels.tolist(), named.tolist(), strict=True):
            kept = found.examples.setdefault(tuple(pair), [])
            if len(kept) < examples:
                kept.append(image)
    return found


def worst_pairs(counts: Tensor, most: int) -> list[tuple[int, int, float]]:
    """(asked, named, share of those asked) off the diagonal, the worst first."""
    shares = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    shares.fill_diagonal_(0)
    values, places = shares.flatten().topk(min(most, shares.numel()))
    size = len(counts)
    found = zip(places.tolist(), values.tolist(), strict=True)
    return [(place // size, place % size, value) for place, value in found if value]


@torch.no_grad()
def share_called_real(discriminator: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> float:
    """The share of images that a discriminator in evaluation mode scores above 0 (BigGAN section 4.2: memorization)."""
    real, count = 0, 0
    for images, labels in batches:
        signed = images.to(device).float().div(127.5).sub(1)
        real += (discriminator(signed, labels.to(device)).logits > 0).sum().item()
        count += len(labels)
    return real / count
