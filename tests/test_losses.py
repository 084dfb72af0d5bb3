"""Every loss against its formula in numpy."""

import numpy as np
import pytest
import torch

from biggan.errors import ConfigError
from biggan.losses import ObjectiveConfig
from biggan.nn.heads import Verdict

REAL, FAKE = np.array([2.0, 0.5, -1.0]), np.array([-3.0, 0.25, 1.5])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


FORMULAS = {
    "hinge": (
        np.maximum(0, 1 - REAL).mean() + np.maximum(0, 1 + FAKE).mean(),
        -FAKE.mean(),
    ),
    "non-saturating": (
        -np.log(sigmoid(REAL)).mean() - np.log(1 - sigmoid(FAKE)).mean(),
        -np.log(sigmoid(FAKE)).mean(),
    ),
    "least-squares": (((REAL - 1) ** 2).mean() / 2 + (FAKE**2).mean() / 2, ((FAKE - 1) ** 2).mean() / 2),
    "wasserstein": (FAKE.mean() - REAL.mean(), -FAKE.mean()),
    "relativistic": (-np.log(sigmoid(REAL - FAKE)).mean(), -np.log(sigmoid(FAKE - REAL)).mean()),
}


def verdict(scores):
    return Verdict(torch.tensor(scores), torch.zeros(len(scores), 1), None)


@pytest.mark.parametrize("loss", FORMULAS)
def test_against_numpy(loss):
    objective = ObjectiveConfig(loss=loss).objective()
    discriminator = sum(objective.for_discriminator(verdict(REAL), verdict(FAKE), torch.zeros(3)).values())
    generator = sum(objective.for_generator(verdict(REAL) if objective.pairs else None, verdict(FAKE)).values())
    assert np.allclose([discriminator.item(), generator.item()], FORMULAS[loss])


def test_margin():
    objective = ObjectiveConfig(margin=3.0).objective()
    loss = sum(objective.for_discriminator(verdict(REAL), verdict(FAKE), torch.zeros(3)).values())
    assert np.isclose(loss.item(), np.maximum(0, 3 - REAL).mean() + np.maximum(0, 3 + FAKE).mean())
    with pytest.raises(ConfigError, match="above 0"):
        ObjectiveConfig(margin=0.0).check()
    with pytest.raises(ConfigError, match="of the hinge loss"):
        ObjectiveConfig(loss="wasserstein", margin=2.0).check()


@pytest.mark.parametrize("loss", ["non-saturating", "relativistic"])
def test_stable_for_huge_scores(loss):
    objective = ObjectiveConfig(loss=loss).objective()
    real, fake = verdict(np.array([-1e4, 1e4])), verdict(np.array([1e4, -1e4]))
    terms = [
        *objective.for_discriminator(real, fake, torch.zeros(2)).values(),
        *objective.for_generator(real, fake).values(),
    ]
    assert all(torch.isfinite(term) for term in terms)
