"""What the paper watches of every weight while networks train, as plain numbers.

Source: BigGAN section 4 and appendix F (the first three singular values of each weight; Frobenius norms);
docs/papers/biggan.md, "Collapse analysis". A weight is seen as (outputs, everything else), raw, before its rule; every
parameter with two or more dimensions counts, class embeddings too. Numbers are named "sigma0/generator/linear.weight":
what, network, parameter."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from biggan.nn.embeddings import SharedEmbedding
from biggan.nn.layers import Embedding
from biggan.nn.singular_values import leading_singular_triplets, warm_start

COUNT = 3


class SpectrumTracker:
    """The leading singular values of networks over time: each search begins from what the one before found."""

    def __init__(self, count: int = COUNT) -> None:
        self.count = count
        self.starts: dict[str, Tensor] = {}

    def measure(self, networks: dict[str, nn.Module]) -> dict[str, float]:
        """sigma0, sigma1, ... and frobenius of each weight of each network. Waits for the device."""
        values: dict[str, float] = {}
        for name, weight in matrices(networks):
            if not weight.isfinite().all():
                values |= {f"sigma0/{name}": math.nan, f"frobenius/{name}": math.nan}
                continue
            found = leading_singular_triplets(weight, self.count, self.starts.get(name))
            self.starts[name] = warm_start(found)
            values |= {f"sigma{index}/{name}": value for index, value in enumerate(found.values.tolist())}
            values[f"frobenius/{name}"] = weight.norm(dim=1).double().norm().item()  # one long float32 sum errs by 1e-5
        return values


def matrices(networks: dict[str, nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """("generator/linear.weight", its matrix (O, M)) for every weight of the networks."""
    for network_name, network in networks.items():
        for name, parameter in network.named_parameters():
            if parameter.dim() >= 2:
                yield f"{network_name}/{name}", parameter.detach().flatten(1)


def class_embedding_norms(networks: dict[str, nn.Module]) -> dict[str, list[float]]:
    """The length of each class's vector, by embedding: "class_norm/generator/embedding". Collapsed classes have very long
    ones (BigGAN appendix H)."""
    return {
        f"class_norm/{network_name}/{name}": module.weight.detach().norm(dim=1).tolist()
        for network_name, network in networks.items()
        for name, module in network.named_modules()
        if isinstance(module, (SharedEmbedding, Embedding))
    }


def optimizer_moments(network_name: str, network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Lengths of Adam's first moment, and root mean squares of its second, of each weight."""
    values = {}
    for name, parameter in network.named_parameters():
        state = optimizer.state.get(parameter, {})
        if parameter.dim() >= 2 and "exp_avg" in state:
            values[f"moment1/{network_name}/{name}"] = state["exp_avg"].norm().item()
            values[f"moment2/{network_name}/{name}"] = state["exp_avg_sq"].mean().sqrt().item()
    return values


def sample_diversity(images: Tensor, per_class: int) -> dict[str, float]:
    """How different images are: the mean distance of pairs, of all and of those of one class.

    `images` (N, 3, R, R) in [-1, 1], `per_class` of each class in a row; distances are root mean squares over pixels, 0 to
    2."""
    flat = images.float().flatten(1)  # (N, 3 R R)
    distance = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist") / flat.shape[1] ** 0.5  # (N, N)
    blocks = [distance[i : i + per_class, i : i + per_class] for i in range(0, len(flat), per_class)]
    within = torch.stack([block.sum() / (per_class * (per_class - 1)) for block in blocks]).mean()
    pairs = len(flat) * (len(flat) - 1)
    return {"diversity": (distance.sum() / pairs).item(), "diversity_within_class": within.item()}
