"""Attention against the sums of the released SA-GAN written out."""

from functools import partial

import torch
import torch.nn.functional as F

from biggan.nn.attention import SelfAttention
from biggan.nn.init import INITIALIZERS, initialize
from biggan.nn.layers import Conv2d
from biggan.nn.spectral import Spectral


def test_against_explicit_sums(generator):
    layer = SelfAttention(16, conv=partial(Conv2d, rule=partial(Spectral, epsilon=1e-4)))
    initialize(layer, INITIALIZERS["orthogonal"], generator)
    layer.eval()
    x = torch.randn(2, 16, 4, 4, generator=generator)
    assert torch.equal(layer(x), x)  # gamma starts at 0
    with torch.no_grad():
        layer.gamma.fill_(0.7)
    theta, phi, g = layer.theta(x), F.max_pool2d(layer.phi(x), 2), F.max_pool2d(layer.g(x), 2)
    attended = torch.zeros(2, 8, 4, 4)
    for n in range(2):
        for i in range(4):
            for j in range(4):
                weights = torch.softmax((theta[n, :, i, j, None] * phi[n].flatten(1)).sum(0), 0)
                attended[n, :, i, j] = (weights * g[n].flatten(1)).sum(1)
    assert torch.allclose(layer(x), x + 0.7 * layer.o(attended), atol=1e-5)
