"""The hinge losses against numpy."""

import numpy as np
import torch

from biggan.losses import OBJECTIVES
from biggan.nn.heads import Verdict


def verdict(scores):
    return Verdict(torch.tensor(scores), torch.zeros(len(scores), 1), None)


def test_hinge():
    real, fake = [2.0, 0.5, -1.0], [-3.0, 0.25, 1.0]
    terms = OBJECTIVES["hinge"].for_discriminator(verdict(real), verdict(fake), torch.zeros(3))
    assert np.isclose(terms["real"].item(), np.maximum(0, 1 - np.array(real)).mean())
    assert np.isclose(terms["fake"].item(), np.maximum(0, 1 + np.array(fake)).mean())
    assert np.isclose(OBJECTIVES["hinge"].for_generator(None, verdict(fake))["fake"].item(), -np.mean(fake))
