"""Batch normalisation against sums written out by hand."""

import pytest
import torch

from biggan.nn.init import INITIALIZERS, initialize
from biggan.nn.norm import BatchNorm, ConditionalBatchNorm, Standardize, collecting_statistics


def hand_standardised(x, epsilon):
    """Plain loops in float64."""
    out = torch.empty_like(x, dtype=torch.float64)
    for c in range(x.shape[1]):
        values = x[:, c].double().flatten()
        mean = values.sum() / len(values)
        variance = ((values - mean) ** 2).sum() / len(values)
        out[:, c] = (x[:, c].double() - mean) / (variance + epsilon) ** 0.5
    return out


def test_conditional_by_hand(generator):
    norm = ConditionalBatchNorm(3, 5, epsilon=1e-4, spectral_epsilon=1e-4)
    initialize(norm, INITIALIZERS["orthogonal"], generator)
    x, condition = torch.randn(4, 3, 2, 2, generator=generator) * 3 + 1, torch.randn(4, 5, generator=generator)
    norm(x, condition)  # lets the vectors of the power iteration settle on something
    norm.gain.eval()
    norm.bias.eval()
    gain, bias = norm.gain.normalized_weight().double(), norm.bias.normalized_weight().double()
    expected = torch.empty(4, 3, 2, 2, dtype=torch.float64)
    standard = hand_standardised(x, 1e-4)
    for n in range(4):
        for c in range(3):
            expected[n, c] = standard[n, c] * (1 + gain[c] @ condition[n].double()) + bias[c] @ condition[n].double()
    assert torch.allclose(norm(x, condition).double(), expected, atol=1e-5)


def test_gain_is_centred_at_one_and_bias_at_zero(generator):
    norm = ConditionalBatchNorm(3, 5, epsilon=1e-4, spectral_epsilon=1e-4)
    initialize(norm, INITIALIZERS["orthogonal"], generator)
    x = torch.randn(4, 3, 2, 2, generator=generator)
    assert torch.allclose(norm(x, torch.zeros(4, 5)).double(), hand_standardised(x, 1e-4), atol=1e-5)


def test_plain_starts_as_standardisation(generator):
    norm = BatchNorm(3, epsilon=1e-4)
    initialize(norm, INITIALIZERS["orthogonal"], generator)
    x = torch.randn(4, 3, 2, 2, generator=generator)
    assert torch.allclose(norm(x).double(), hand_standardised(x, 1e-4), atol=1e-5)


def test_sum_over_ranks_gives_the_statistics_of_the_whole_batch(generator):
    whole = torch.randn(4, 3, 2, 2, generator=generator)
    norm = Standardize(3, epsilon=1e-4)
    norm.sum_over_ranks = lambda values: 2 * values  # two ranks that hold the same half
    doubled = norm(whole)
    assert torch.allclose(doubled.double(), hand_standardised(whole, 1e-4), atol=1e-5)


def test_standing_statistics_are_equal_weight_averages(generator):
    norm = Standardize(3, epsilon=1e-4).eval()
    batches = [torch.randn(8, 3, 2, 2, generator=generator) * (i + 1) for i in range(3)]
    with collecting_statistics(norm):
        for batch in batches:
            norm(batch)
    means = torch.stack([batch.transpose(0, 1).flatten(1).mean(1) for batch in batches])
    variances = torch.stack([batch.transpose(0, 1).flatten(1).var(1, unbiased=False) for batch in batches])
    assert torch.allclose(norm.standing_mean, means.mean(0), atol=1e-6)
    assert torch.allclose(norm.standing_variance, variances.mean(0), atol=1e-5)


def test_evaluation_does_not_depend_on_the_batch(generator):
    norm = Standardize(3, epsilon=1e-4).eval()
    x = torch.randn(8, 3, 2, 2, generator=generator)
    with collecting_statistics(norm):
        norm(x)
    assert torch.allclose(norm(x)[:1], norm(x[:1]), atol=1e-6)


def test_collecting_without_a_pass_is_a_mistake():
    with pytest.raises(AssertionError), collecting_statistics(Standardize(3, epsilon=1e-4)):
        pass


def test_bf16_input_keeps_float32_statistics(generator):
    x = (torch.randn(64, 3, 8, 8, generator=generator) + 100).bfloat16()
    norm = Standardize(3, epsilon=1e-4)
    training = norm(x)
    with collecting_statistics(norm.eval()):
        norm(x)
    for out in (training, norm(x)):
        assert out.dtype == torch.bfloat16
        assert (out.double() - hand_standardised(x, 1e-4)).abs().max() < 0.05
