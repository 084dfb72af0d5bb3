"""How exact the singular values of a full-size model are, and what they cost: python recipes/spectra_cost.py [PRESET]

Every weight of both networks (with noise, so that they are not orthogonal any more): the first three singular values
against a full decomposition in float64, and the time of that, of a first search, and of one that begins where the first
ended, when the weights have moved by a thousandth.
"""

import dataclasses
import sys
import time

import torch

from biggan.analysis.spectra import SpectrumTracker, weight_matrices
from biggan.configs.presets import preset
from biggan.models import registry


def main() -> None:
    config = preset(sys.argv[1] if len(sys.argv) > 1 else "biggan-128")
    model = dataclasses.replace(config.model, num_classes=config.model.num_classes or 1000)
    generator = torch.Generator().manual_seed(0)
    networks = dict(zip(("generator", "discriminator"), registry.build_networks(model, generator), strict=True))
    move(networks, 0.05, generator)
    spectra, seconds = SpectrumTracker(), []
    for _ in ("first", "again"):
        started = time.perf_counter()
        values = spectra.measure(networks)
        seconds.append(time.perf_counter() - started)
        if len(seconds) == 1:
            started = time.perf_counter()
            exact = {name: torch.linalg.svdvals(weight.double())[:3] for name, weight in weight_matrices(networks)}
            whole = time.perf_counter() - started
            pairs = [(values[f"sigma{i}/{name}"], v.item()) for name, vs in exact.items() for i, v in enumerate(vs)]
            errors = [abs(ours / theirs - 1) if theirs else ours for ours, theirs in pairs]
            move(networks, 1e-3, generator)
    print(f"{len(exact)} weights, {len(errors)} singular values, worst relative error {max(errors):.1e}")
    print(f"first search {seconds[0]:.1f} s, warm search {seconds[1]:.1f} s, full decompositions {whole:.1f} s")
    print(f"{torch.get_num_threads()} threads")


@torch.no_grad()
def move(networks: dict[str, torch.nn.Module], share: float, generator: torch.Generator) -> None:
    """Add noise of that share of each weight's length; mutates them."""
    for network in networks.values():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += share * parameter.norm() * noise / noise.norm()


if __name__ == "__main__":
    main()
