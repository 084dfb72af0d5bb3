"""Noise from a table is normal, differs between forward passes, and is off in evaluation."""

import torch
from scipy import stats
from torch import nn

from biggan.nn.noise import TABLE_SIZE, GaussianNoise, NormalTable, disable_noise


def test_normal_and_new_each_time():
    layer, x = GaussianNoise(0.5, NormalTable()), torch.zeros(200, 300)
    torch.manual_seed(0)
    first, second = layer(x), layer(x)
    assert stats.kstest(first.flatten().numpy(), stats.norm(scale=0.5).cdf).pvalue > 0.01
    assert abs(stats.pearsonr(first.flatten(), second.flatten())[0]) < 0.02
    torch.manual_seed(0)
    assert torch.equal(layer(x), first), "the offset comes from the global random number generator"
    assert abs(stats.pearsonr(first[:-1].flatten(), first[1:].flatten())[0]) < 0.02


def test_larger_than_the_table():
    torch.manual_seed(0)
    noise = NormalTable().sample_like(torch.zeros(TABLE_SIZE + 1))
    assert noise.shape == (TABLE_SIZE + 1,)
    assert abs(noise.std().item() - 1) < 0.01


def test_none_in_evaluation_and_where_disabled():
    network = nn.Sequential(GaussianNoise(0.5, NormalTable()), nn.Dropout(0.5))
    x = torch.ones(50, 50)
    with disable_noise(network):
        assert torch.equal(network(x), x)
    assert not torch.equal(network(x), x)
    assert torch.equal(network.eval()(x), x)
    with disable_noise(network):
        pass
    assert not any(module.training for module in network.modules())
