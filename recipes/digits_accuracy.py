"""Does the digits model draw the digit that was asked for, and not always the same one?

A support vector machine fitted to the real digits judges the first, the distance between images of one class the second.

    python recipes/digits_accuracy.py runs/digits [--n 1000] [--seed 0]

The judge never sees a generated image before it judges. It is fitted to half of the real digits and first tested on the
other half; images are averaged down to 8x8 pixels, the size of the real ones. Prints JSON.
"""

import argparse
import json

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.distance import pdist
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

import biggan


def features(images_uint8: torch.Tensor) -> np.ndarray:
    """(N, 3, 32, 32) uint8 -> (N, 64) in [0, 1]: gray, averaged to 8x8."""
    return F.adaptive_avg_pool2d(images_uint8.float().mean(1) / 255, 8).flatten(1).numpy()


def spread(x: np.ndarray, y: np.ndarray) -> float:
    """Mean distance between two different images of one class, over classes: how varied they are."""
    return float(np.mean([pdist(x[y == digit]).mean() for digit in range(10)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    real = biggan.open_source("embedded:digits", 32)
    split = train_test_split(features(real.images), real.labels.numpy(), test_size=0.5, random_state=0, stratify=real.labels)
    fit_x, test_x, fit_y, test_y = split
    judge = SVC(gamma="scale", C=10).fit(fit_x, fit_y)

    samples = biggan.from_pretrained(options.model).sample(options.n, seed=options.seed)
    named = judge.predict(features(samples.images))
    asked = samples.labels.numpy()
    result = {
        "judge": "SVM (RBF, C=10) on 8x8 grays, fitted to half of the real digits",
        "judge_accuracy_on_the_other_half": round(float(judge.score(test_x, test_y)), 4),
        "generated": options.n,
        "seed": options.seed,
        "truncation": None,
        "named_as_asked": round(float((named == asked).mean()), 4),
        "spread_within_a_class": {
            "generated": round(spread(features(samples.images), asked), 3),
            "real": round(spread(features(real.images), real.labels.numpy()), 3),
        },
        "by_digit": {str(digit): round(float((named == asked)[asked == digit].mean()), 3) for digit in range(10)},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
