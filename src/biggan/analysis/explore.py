"""What a generator does between and beside its training images: paths through its latents and classes, blends of classes,
the real images nearest to its own, the classes that leak into each other, and whom its discriminator believes.

Source: BigGAN sections 4 and 4.2 (docs/papers/biggan.md, "Collapse analysis", "Qualitative findings"). Shapes: N images,
Z latent, K classes, F features."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from biggan.errors import ConfigError
from biggan.metrics.features import Extractor
from biggan.sampling import Sampler


def spherical(first_Z: Tensor, second_Z: Tensor, steps: int) -> Tensor:
    """(steps, Z) from the one to the other at an even angle, lengths changing evenly, so that points on the way are as long
    as latents are."""
    shares = torch.linspace(0, 1, steps)[:, None]
    lengths = first_Z.norm(), second_Z.norm()
    if min(lengths) < 1e-6:
        return linear(first_Z, second_Z, steps)
    directions = first_Z / lengths[0], second_Z / lengths[1]
    angle = torch.arccos((directions[0] @ directions[1]).clamp(-1, 1))
    if angle.sin() < 1e-4:
        return linear(first_Z, second_Z, steps)
    way = (((1 - shares) * angle).sin() * directions[0] + (shares * angle).sin() * directions[1]) / angle.sin()
    return way * ((1 - shares) * lengths[0] + shares * lengths[1])


def linear(first_Z: Tensor, second_Z: Tensor, steps: int) -> Tensor:
    """(steps, Z) along the straight line."""
    shares = torch.linspace(0, 1, steps)[:, None]
    return (1 - shares) * first_Z + shares * second_Z


WAYS = {"spherical": spherical, "linear": linear}


def paths(
    sampler: Sampler, what: str, classes: list[int], *, rows: int, steps: int, way: str, truncation: float | None, seed: int
) -> Tensor:
    """uint8 images (rows, steps, 3, R, R). Row r goes from latent 2r to latent 2r + 1 ("latents"; the class stays), from one
    of the classes to the next ("classes"; the latent stays), or both."""
    sampler.set_statistics(truncation)
    latents, weights, count = [], [], len(sampler.class_names)
    for row in range(rows):
        ends = [sampler.latent(seed, 2 * row + end, truncation) for end in (0, 1)]
        names = [classes[(row + end) % len(classes)] for end in (0, 1)]
        ends = ends if what != "classes" else ends[:1] * 2
        names = names if what != "latents" else names[:1] * 2
        latents.append(WAYS[way](*ends, steps))
        weights.append(linear(*torch.eye(count)[names], steps))
    return chunked(sampler, torch.cat(latents), torch.cat(weights)).unflatten(0, (rows, steps))


def blends(sampler: Sampler, weights_K: Tensor, n: int, *, truncation: float | None, seed: int) -> Tensor:
    """uint8 images (n, 3, R, R) of a mixture of classes, and fresh latents."""
    sampler.set_statistics(truncation)
    z_NZ = torch.stack([sampler.latent(seed, index, truncation) for index in range(n)])
    return chunked(sampler, z_NZ, weights_K.expand(n, -1))


def chunked(sampler: Sampler, z_NZ: Tensor, weights_NK: Tensor, size: int = 64) -> Tensor:
    """`Sampler.blended` in batches."""
    parts = zip(z_NZ.split(size), weights_NK.split(size), strict=True)
    return torch.cat([sampler.blended(z, weights) for z, weights in parts])


def weights_of(text: str, sampler: Sampler) -> Tensor:
    """(K,) of "cat:0.6,dog:0.4"; weights are divided by their sum. Raises ConfigError on unknown classes and bad weights."""
    weights = torch.zeros(len(sampler.class_names))
    for word in text.split(","):
        name, separator, number = word.strip().rpartition(":")
        try:
            value = float(number) if separator else math.nan
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise ConfigError(f"--classes {text}: give each class and its weight, such as cat:0.6,dog:0.4")
        weights[sampler.class_numbers([name])[0]] += value
    if not weights.sum() > 0:
        raise ConfigError(f"--classes {text}: the weights must have a sum above 0")
    return weights / weights.sum()


class Neighbours(NamedTuple):
    """For each sample the nearest real images, nearest first."""

    distances: Tensor
    """(N, count)"""
    images: Tensor
    """uint8 (N, count, 3, R, R)"""


def neighbours(samples: Tensor, batches: Iterable, extractor: Extractor | None, count: int) -> Neighbours:
    """The `count` nearest of the real `batches` to each of the samples (N, 3, R, R), by features, or by pixels (0 to 255)
    for no extractor. Holds one batch and the best so far."""
    queries = vectors(samples, extractor)
    distances = torch.full((len(samples), count), math.inf)
    found = samples.new_zeros(len(samples), count, *samples.shape[1:])
    for images, _ in batches:
        table = torch.cat([distances, torch.cdist(queries, vectors(images, extractor))], dim=1)  # (N, count + B)
        distances, places = table.topk(count, dim=1, largest=False)
        candidates = torch.cat([found, images[None].expand(len(samples), *images.shape)], dim=1)
        found = candidates[torch.arange(len(samples))[:, None], places]
    return Neighbours(distances, found)


def vectors(images: Tensor, extractor: Extractor | None) -> Tensor:
    """(N, F): features, or pixels."""
    return images.flatten(1).float() if extractor is None else extractor(images).features


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
def called_real(discriminator: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> float:
    """The share of images that a discriminator in evaluation mode scores above 0 (BigGAN section 4.2: memorization)."""
    real, count = 0, 0
    for images, labels in batches:
        signed = images.to(device).float().div(127.5).sub(1)
        real += (discriminator(signed, labels.to(device)).score_N > 0).sum().item()
        count += len(labels)
    return real / count
