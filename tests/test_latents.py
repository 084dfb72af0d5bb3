"""Truncated sampling against scipy's truncated normal; addressed randomness."""

import pytest
import torch
from scipy import stats

from biggan.errors import ConfigError
from biggan.latents import draw_labels, draw_latents
from biggan.randomness import addressed_generator


def test_untruncated_is_standard_normal(generator):
    z = draw_latents((20_000,), generator)
    assert stats.kstest(z.numpy(), "norm").pvalue > 0.01


@pytest.mark.parametrize("threshold", [2.0, 0.5, 0.04])
def test_truncation_is_the_truncated_normal(threshold, generator):
    z = draw_latents((20_000,), generator, threshold)
    assert z.abs().max() <= threshold
    assert stats.kstest(z.numpy(), stats.truncnorm(-threshold, threshold).cdf).pvalue > 0.01


def test_truncation_keeps_the_coordinates_that_lie_inside():
    plain = draw_latents((100,), addressed_generator(0, "test", 1))
    cut = draw_latents((100,), addressed_generator(0, "test", 1), 1.0)
    inside = plain.abs() <= 1
    assert torch.equal(plain[inside], cut[inside])
    assert 0 < inside.sum() < 100


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1e-6, float("nan")])
def test_senseless_truncation(threshold, generator):
    with pytest.raises(ConfigError, match=r"at least 0\.001"):
        draw_latents((3,), generator, threshold)


def test_labels_are_uniform(generator):
    counts = torch.bincount(draw_labels(100_000, 10, generator), minlength=10)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_addresses():
    first = torch.rand(3, generator=addressed_generator(0, "a", 1))
    assert torch.equal(first, torch.rand(3, generator=addressed_generator(0, "a", 1)))
    for other in ((1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a", 1, 0)):
        assert not torch.equal(first, torch.rand(3, generator=addressed_generator(*other)))
