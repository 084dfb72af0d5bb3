"""How far are generated CIFAR-10 images from real ones, by the features of a given classifier?

    python recipes/judge_distance.py RUN --judge cifar10.pt --data zip:cifar10-test.zip [--n 10000] [--seed 0]

The judge is a TorchScript module from uint8 (N, 3, 32, 32) to (features (N, F), logits (N, 10)), classes in order of name.
Prints the Frechet distance between the features of n samples and of the real images, and the share of samples recognised
as the class that was asked for. This distance is not FID. RUN may also be a data source, for the floor of the measure.
"""

import argparse
import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

import biggan


def judged(judge: torch.jit.ScriptModule, batches: Iterable[torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, F) in float64 and named classes (N,) of uint8 batches."""
    features, classes = [], []
    with torch.no_grad():
        for batch in batches:
            feature, logits = judge(batch)
            features.append(feature.double().numpy())
            classes.append(logits.argmax(1).numpy())
    return np.concatenate(features), np.concatenate(classes)


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2) of two sets of features; the root by eigenvalues of the product."""
    difference = first.mean(0) - second.mean(0)
    covariances = [np.cov(features, rowvar=False) for features in (first, second)]
    eigenvalues = np.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(0)
    return float(difference @ difference + sum(np.trace(c) for c in covariances) - 2 * np.sqrt(eigenvalues).sum())


def samples_of(path: str, n: int, seed: int) -> tuple[Iterator[torch.Tensor], np.ndarray]:
    """uint8 batches and the classes that were asked for, from a model or from real images."""
    if Path(path).is_dir():
        sampler = biggan.from_pretrained(path)
        labels = torch.arange(n) % len(sampler.class_names)
        return sampler.batches(range(n), labels, truncation=None, seed=seed, batch=250), labels.numpy()
    source = biggan.open_source(path, 32)
    chosen = torch.randperm(len(source.labels), generator=torch.Generator().manual_seed(seed))[:n]
    return iter(source.images[chosen].split(250)), source.labels[chosen].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--judge", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated, and what the judge comes as
        judge = torch.jit.load(options.judge).eval()
    real = biggan.open_source(options.data, 32)
    batches, asked = samples_of(options.model, options.n, options.seed)
    features, named = judged(judge, batches)
    real_features, real_named = judged(judge, real.images.split(250))
    result = {
        "frechet_distance_of_judge_features": round(frechet_distance(features, real_features), 2),
        "recognised_as_asked": round(float((named == asked).mean()), 4),
        "generated": options.n,
        "seed": options.seed,
        "truncation": None,
        "real": {"data": Path(options.data).name, "n": len(real.labels)},
        "judge_accuracy_on_real": round(float((real_named == real.labels.numpy()).mean()), 4),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
