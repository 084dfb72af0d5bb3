"""Images along paths between latents and classes, and images of mixtures of classes.

Source: BigGAN section 4.2 (docs/papers/biggan.md, "Qualitative findings"). Shapes: N images, Z latent, K classes.
"""

import torch
from torch import Tensor

from biggan.data.class_names import parse_class_weights as parse_weights
from biggan.sampling.sampler import Sampler


def slerp(first_Z: Tensor, second_Z: Tensor, steps: int) -> Tensor:
    """Spherical interpolation: latents (steps, Z) from the first to the second, whose angle and norm both change linearly,
    so that latents on the path have norms that are likely under a normal distribution."""
    t = torch.linspace(0, 1, steps)[:, None]
    first_norm, second_norm = first_Z.norm(), second_Z.norm()
    if min(first_norm, second_norm) < 1e-6:
        return lerp(first_Z, second_Z, steps)
    first_direction, second_direction = first_Z / first_norm, second_Z / second_norm
    angle = torch.arccos((first_direction @ second_direction).clamp(-1, 1))
    if angle.sin() < 1e-4:
        return lerp(first_Z, second_Z, steps)
    directions = (((1 - t) * angle).sin() * first_direction + (t * angle).sin() * second_direction) / angle.sin()
    return directions * ((1 - t) * first_norm + t * second_norm)  # (steps, Z)


def lerp(first_Z: Tensor, second_Z: Tensor, steps: int) -> Tensor:
    """Linear interpolation: latents (steps, Z) from the first to the second."""
    t = torch.linspace(0, 1, steps)[:, None]
    return (1 - t) * first_Z + t * second_Z  # (steps, Z)


INTERPOLATIONS = {"spherical": slerp, "linear": lerp}


def interpolate_images(
    sampler: Sampler,
    between: str,
    classes: list[int],
    *,
    rows: int,
    steps: int,
    interpolation: str,
    truncation: float | None,
    seed: int,
) -> Tensor:
    """uint8 images (rows, steps, 3, R, R) along paths: row r from latent 2r to latent 2r + 1 of the seed (`between`
    "latents"; the class is fixed), from the r-th class to the next one ("classes"; the latent is fixed), or both ("both").

    `classes`: indices, empty for a generator without classes. `interpolation`: of latents, one of `INTERPOLATIONS`; class
    embeddings are interpolated linearly. Raises ConfigError on classes of a generator without any."""
    if between != "latents" or classes:
        sampler.check_conditional("interpolation between classes")
    sampler.prior.check_truncation(truncation)
    sampler.set_statistics(truncation)
    latents, weights, num_classes = [], [], len(sampler.class_names)
    for row in range(rows):
        end_latents = sampler.latents(seed, (2 * row, 2 * row + 1), truncation).unbind()
        end_classes = [classes[(row + end) % len(classes)] for end in (0, 1)] if classes else []
        end_latents = end_latents if between != "classes" else end_latents[:1] * 2
        end_classes = end_classes if between != "latents" else end_classes[:1] * 2
        latents.append(INTERPOLATIONS[interpolation](end_latents[0], end_latents[1], steps))
        one_hot = torch.eye(num_classes)[end_classes] if classes else torch.zeros(2, 0)  # (2, classes)
        weights.append(lerp(one_hot[0], one_hot[1], steps))
    return synthesize_mixtures(sampler, torch.cat(latents), torch.cat(weights)).unflatten(0, (rows, steps))


def mix_classes(sampler: Sampler, weights_K: Tensor, n: int, *, truncation: float | None, seed: int) -> Tensor:
    """uint8 images (n, 3, R, R) of the first n latents of the seed, with the mean of the class embeddings by these
    weights. Raises ConfigError where the generator has no classes."""
    sampler.check_conditional("a mixture of classes")
    sampler.prior.check_truncation(truncation)
    sampler.set_statistics(truncation)
    z_NZ = sampler.latents(seed, range(n), truncation)
    return synthesize_mixtures(sampler, z_NZ, weights_K.expand(n, -1))


def synthesize_mixtures(sampler: Sampler, z_NZ: Tensor, weights_NK: Tensor, batch: int = 64) -> Tensor:
    """`Sampler.mixture_images` in batches."""
    batches = zip(z_NZ.split(batch), weights_NK.split(batch), strict=True)
    return torch.cat([sampler.mixture_images(z, weights) for z, weights in batches])


def parse_class_weights(text: str, sampler: Sampler) -> Tensor:
    """Class weights (K,) with the sum 1 from a text such as "cat:0.6,dog:0.4". Raises ConfigError as
    `class_names.parse_class_weights`, and where the generator has no classes."""
    sampler.check_conditional("a mixture of classes")
    weights = torch.zeros(len(sampler.class_names))
    for label, value in parse_weights(text, sampler.class_names).items():
        weights[label] = value
    return weights
