"""Batch normalization against sums written out by hand."""

from functools import partial

import pytest
import torch
from torch import nn

from biggan.nn.batch_norm import AffineNorm, BatchNorm, ClassConditionalTable, ConditionalNorm, MLPMap, gains_and_biases
from biggan.nn.initialization import INITIALIZERS, initialize
from biggan.nn.layers import Linear
from biggan.nn.spectral_norm import SpectralNorm
from biggan.nn.sync_batch_norm import SyncBatchNorm, global_statistics
from biggan.sampling.standing_statistics import collect_standing_statistics

LINEAR = partial(Linear, reparametrization=partial(SpectralNorm, epsilon=1e-4))


def normalize_by_hand(x, epsilon):
    """Plain loops in float64."""
    out = torch.empty_like(x, dtype=torch.float64)
    for c in range(x.shape[1]):
        values = x[:, c].double().flatten()
        mean = values.sum() / len(values)
        variance = ((values - mean) ** 2).sum() / len(values)
        out[:, c] = (x[:, c].double() - mean) / (variance + epsilon) ** 0.5
    return out


def conditional(normalize):
    maps = {name: LINEAR(5, 3, bias=False) for name in ("gain", "bias")}
    return ConditionalNorm(normalize=normalize, **maps)


def apply(norm, x, condition):
    """One norm with its gain and bias for a condition."""
    return norm(x, *gains_and_biases([norm], condition))


def test_conditional_by_hand(generator):
    norm = conditional(BatchNorm(3, epsilon=1e-4))
    initialize(norm, INITIALIZERS["orthogonal"], generator)
    x, condition = torch.randn(4, 3, 2, 2, generator=generator) * 3 + 1, torch.randn(4, 5, generator=generator)
    apply(norm, x, condition)  # lets the vectors of the power iteration settle on something
    norm.gain.eval()
    norm.bias.eval()
    gain, bias = norm.gain.effective_weight().double(), norm.bias.effective_weight().double()
    expected = torch.empty(4, 3, 2, 2, dtype=torch.float64)
    standard = normalize_by_hand(x, 1e-4)
    for n in range(4):
        for c in range(3):
            expected[n, c] = standard[n, c] * (1 + gain[c] @ condition[n].double()) + bias[c] @ condition[n].double()
    assert torch.allclose(apply(norm, x, condition).double(), expected, atol=1e-5)


def test_gain_is_centered_at_one_and_bias_at_zero(generator):
    norm = conditional(BatchNorm(3, epsilon=1e-4))
    initialize(norm, INITIALIZERS["orthogonal"], generator)
    x = torch.randn(4, 3, 2, 2, generator=generator)
    assert torch.allclose(apply(norm, x, torch.zeros(4, 5)).double(), normalize_by_hand(x, 1e-4), atol=1e-5)


def test_affine_norm_starts_as_normalization(generator):
    norm = AffineNorm(3, normalize=BatchNorm(3, epsilon=1e-4))
    initialize(norm, INITIALIZERS["orthogonal"], generator)
    x = torch.randn(4, 3, 2, 2, generator=generator)
    assert torch.allclose(norm(x).double(), normalize_by_hand(x, 1e-4), atol=1e-5)


def test_sum_over_ranks_gives_the_statistics_of_the_global_batch(generator):
    x = torch.randn(4, 3, 2, 2, generator=generator)
    norm = BatchNorm(3, epsilon=1e-4)
    norm.sum_over_ranks = lambda values: 2 * values  # two ranks that hold the same half
    doubled = norm(x)
    assert torch.allclose(doubled.double(), normalize_by_hand(x, 1e-4), atol=1e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shift", [0.0, 300.0])
def test_packed_statistics_and_gradients_are_those_of_the_whole_batch(shift, memory_format, generator):
    """Two ranks in one process: each one's sums are joined with those that the other has for its half."""
    x = (torch.randn(6, 3, 4, 4, generator=generator) * 2 + shift).contiguous(memory_format=memory_format)
    upstream = torch.randn(6, 3, 4, 4, generator=generator)
    whole = x.double().requires_grad_()
    expected = torch.nn.functional.batch_norm(whole, None, None, training=True, eps=1e-4)
    expected.backward(upstream.double())
    halves, others = [part.clone().requires_grad_() for part in x.split([2, 4])], []
    for part in halves:  # what each rank would send
        SyncBatchNorm.apply(part, lambda values: others.append(values) or values, global_statistics, 1e-4)
    total = others[0] + others[1]
    outputs = [SyncBatchNorm.apply(part, lambda values: total, global_statistics, 1e-4) for part in halves]
    assert torch.allclose(torch.cat(outputs).double(), expected, atol=1e-3 if shift else 1e-5)
    sent = []
    for part, output, gradient in zip(halves, outputs, upstream.split([2, 4]), strict=True):
        output.grad_fn.sum_over_ranks = lambda values: sent.append(values) or values
        output.backward(gradient, retain_graph=True)
        part.grad = None
    for output, gradient in zip(outputs, upstream.split([2, 4]), strict=True):
        output.grad_fn.sum_over_ranks = lambda values: sent[0] + sent[1]
        output.backward(gradient)
    assert torch.allclose(torch.cat([part.grad for part in halves]).double(), whole.grad, atol=2e-3 if shift else 1e-5)


def test_standing_statistics_are_equal_weight_averages(generator):
    norm = BatchNorm(3, epsilon=1e-4).eval()
    batches = [torch.randn(8, 3, 2, 2, generator=generator) * (i + 1) for i in range(3)]
    with collect_standing_statistics(norm):
        for batch in batches:
            norm(batch)
    means = torch.stack([batch.transpose(0, 1).flatten(1).mean(1) for batch in batches])
    variances = torch.stack([batch.transpose(0, 1).flatten(1).var(1, unbiased=False) for batch in batches])
    assert torch.allclose(norm.standing_mean, means.mean(0), atol=1e-6)
    assert torch.allclose(norm.standing_variance, variances.mean(0), atol=1e-5)


def test_evaluation_does_not_depend_on_the_batch(generator):
    norm = BatchNorm(3, epsilon=1e-4).eval()
    x = torch.randn(8, 3, 2, 2, generator=generator)
    with collect_standing_statistics(norm):
        norm(x)
    assert torch.allclose(norm(x)[:1], norm(x[:1]), atol=1e-6)


def test_collecting_without_a_pass_is_a_mistake():
    with pytest.raises(AssertionError), collect_standing_statistics(BatchNorm(3, epsilon=1e-4)):
        pass


def test_bf16_input_keeps_float32_statistics(generator):
    x = (torch.randn(64, 3, 8, 8, generator=generator) + 100).bfloat16()
    norm = BatchNorm(3, epsilon=1e-4)
    training = norm(x)
    with collect_standing_statistics(norm.eval()):
        norm(x)
    for out in (training, norm(x)):
        assert out.dtype == torch.bfloat16
        assert (out.double() - normalize_by_hand(x, 1e-4)).abs().max() < 0.05


def test_without_normalization_gain_and_bias_act_on_x(generator):
    norm = conditional(nn.Identity())
    initialize(norm, INITIALIZERS["orthogonal"], generator)
    norm.eval()
    x, condition = torch.randn(4, 3, 2, 2, generator=generator), torch.randn(4, 5, generator=generator)
    gain, bias = 1 + norm.gain(condition), norm.bias(condition)
    assert torch.allclose(apply(norm, x, condition), x * gain[:, :, None, None] + bias[:, :, None, None], atol=1e-6)


def test_a_table_holds_a_row_for_each_class_and_starts_at_zero(generator):
    table = ClassConditionalTable(4, 3)
    initialize(table, INITIALIZERS["normal"], generator)
    assert not table.weight.detach().any()
    with torch.no_grad():
        table.weight.copy_(torch.arange(12.0).view(4, 3))
    blend = torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.5, 0.5, 0.0, 0.0]])
    assert torch.equal(table(blend), torch.tensor([[6.0, 7.0, 8.0], [1.5, 2.5, 3.5]]))


def test_the_perceptron_map_is_two_layers_with_a_relu(generator):
    layer = MLPMap(5, 3, linear=LINEAR)
    initialize(layer, INITIALIZERS["orthogonal"], generator)
    layer.eval()
    condition = torch.randn(4, 5, generator=generator)
    hidden = (condition @ layer.hidden.effective_weight().T + layer.hidden.bias).clamp(min=0)
    assert torch.allclose(layer(condition), hidden @ layer.output.effective_weight().T, atol=1e-6)
