"""Statistics of weights and samples to be logged while networks train: singular values, norms, Adam's moments, diversity.

Source: BigGAN section 4 and appendix F (the first three singular values and Frobenius norms of each weight);
docs/papers/biggan.md, "Collapse analysis". A weight is seen as a matrix (O outputs, M everything else), before spectral or
weight normalization. All parameters with two or more dimensions count, class embeddings too. Log keys are named
"sigma0/generator/linear.weight": quantity, network, parameter.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from biggan.nn.embeddings import SharedEmbedding
from biggan.nn.layers import Embedding
from biggan.nn.singular_values import leading_singular_triplets, warm_start

NUM_SINGULAR_VALUES = 3


class SpectrumTracker:
    """Measures the `count` largest singular values of networks again and again; each search starts from the singular vectors
    found before."""

    def __init__(self, count: int = NUM_SINGULAR_VALUES) -> None:
        self.count = count
        self.starts: dict[str, Tensor] = {}

    def measure(self, networks: dict[str, nn.Module]) -> dict[str, float]:
        """sigma0, sigma1, ... and frobenius of each weight, by log keys; NaN for a weight that is not finite. Synchronizes
        with the device."""
        values: dict[str, float] = {}
        for name, weight in weight_matrices(networks):
            if not weight.isfinite().all():
                values |= {f"sigma0/{name}": math.nan, f"frobenius/{name}": math.nan}
                continue
            triplets = leading_singular_triplets(weight, self.count, self.starts.get(name))
            self.starts[name] = warm_start(triplets)
            values |= {f"sigma{index}/{name}": value for index, value in enumerate(triplets.values.tolist())}
            values[f"frobenius/{name}"] = weight.norm(dim=1).double().norm().item()  # one long float32 sum errs by 1e-5
        return values


def weight_matrices(networks: dict[str, nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """("generator/linear.weight", its matrix (O, M)) for every weight of the networks."""
    for network_name, network in networks.items():
        for name, parameter in network.named_parameters():
            if parameter.dim() >= 2:
                yield f"{network_name}/{name}", parameter.detach().flatten(1)


def class_embedding_norms(networks: dict[str, nn.Module]) -> dict[str, list[float]]:
    """The norm of each class's embedding vector, by embedding: {"class_norm/generator/embedding": [...]}. Classes that have
    collapsed have vectors with large norms (BigGAN appendix H)."""
    return {
        f"class_norm/{network_name}/{name}": module.weight.detach().norm(dim=1).tolist()
        for network_name, network in networks.items()
        for name, module in network.named_modules()
        if isinstance(module, (SharedEmbedding, Embedding))
    }


def optimizer_moments(network_name: str, network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Adam's moments of each weight, by log keys: "moment1/..." is the norm of the first moment, "moment2/..." the square
    root of the mean of the second one."""
    values = {}
    for name, parameter in network.named_parameters():
        state = optimizer.state.get(parameter, {})
        if parameter.dim() >= 2 and "exp_avg" in state:
            values[f"moment1/{network_name}/{name}"] = state["exp_avg"].norm().item()
            values[f"moment2/{network_name}/{name}"] = state["exp_avg_sq"].mean().sqrt().item()
    return values


def sample_diversity(images: Tensor, per_class: int) -> dict[str, float]:
    """The mean distance between two samples: "diversity" over all pairs, "diversity_within_class" over pairs of one class.

    `images` (N, 3, R, R) in [-1, 1], in blocks of `per_class` images of one class. The distance of two images is the root
    mean square of their difference, 0 to 2."""
    flat = images.float().flatten(1)  # (N, 3 R R)
    distance = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist") / flat.shape[1] ** 0.5  # (N, N)
    blocks = [distance[i : i + per_class, i : i + per_class] for i in range(0, len(flat), per_class)]
    within = torch.stack([block.sum() / (per_class * (per_class - 1)) for block in blocks]).mean()
    pairs = len(flat) * (len(flat) - 1)
    return {"diversity": (distance.sum() / pairs).item(), "diversity_within_class": within.item()}
