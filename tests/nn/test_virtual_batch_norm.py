"""Virtual batch norm against the published formula in numpy, and in generators."""

import numpy as np
import pytest
import torch
from conftest import model_config

from biggan.models import registry
from biggan.models.biggan import BigGANConfig
from biggan.models.improved_gan_config import ConvConfig, MLPConfig
from biggan.nn.virtual_batch_norm import VirtualBatchNorm

REFERENCE = 5


def by_formula(x):
    """docs/papers/improved_gan.md, "Virtual batch normalization": w = 1 / (B + 1), m = w m_x + (1 - w) m_r, q likewise;
    (x - m) / sqrt(q - m^2 + 1e-5)."""
    x = x.astype(np.float64)
    reference, live, w = x[:REFERENCE], x[REFERENCE:], 1 / (REFERENCE + 1)
    m_r, q_r = reference.mean((0, 2, 3)), (reference**2).mean((0, 2, 3))
    m = w * live.mean((2, 3)) + (1 - w) * m_r
    q = w * (live**2).mean((2, 3)) + (1 - w) * q_r
    m, q = (np.concatenate([np.tile(first, (REFERENCE, 1)), rest]) for first, rest in ((m_r, m), (q_r, q)))
    return (x - m[:, :, None, None]) / np.sqrt(q - m**2 + 1e-5)[:, :, None, None]


@pytest.mark.parametrize("size", [4, 1])
def test_against_the_formula(size, generator):
    x = 2 * torch.randn(REFERENCE + 3, 6, size, size, generator=generator) + 1
    norm = VirtualBatchNorm(REFERENCE, epsilon=1e-5)
    assert np.allclose(norm(x), by_formula(x.numpy()), atol=1e-5)
    assert torch.equal(norm.eval()(x), norm.train()(x))


def test_gradients_flow_through_both_batches(generator):
    x = torch.randn(REFERENCE + 2, 3, 4, 4, generator=generator, dtype=torch.float32).requires_grad_(True)
    out = VirtualBatchNorm(REFERENCE, epsilon=1e-5)(x)
    (gradient,) = torch.autograd.grad(out[REFERENCE].square().sum() + out[REFERENCE].sum(), x)
    assert gradient[:REFERENCE].abs().sum() > 0
    assert torch.equal(gradient[REFERENCE + 1], torch.zeros_like(gradient[0])), "another live example does not matter"
    place = (1, 2, 0, 3)
    ends = []
    for step in (1e-2, -1e-2):
        moved = x.detach().numpy().copy()
        moved[place] += step
        live = by_formula(moved)[REFERENCE]
        ends.append((live**2).sum() + live.sum())
    assert gradient[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-2, abs=1e-2)


CONFIGS = {
    "biggan": model_config(
        BigGANConfig, resolution=32, num_classes=3, width=4, generator__norm="virtual", generator__reference_batch_size=4
    ),
    "perceptron": model_config(MLPConfig, num_classes=3, generator__norm="virtual", generator__reference_batch_size=4),
    "convolution": model_config(
        ConvConfig, num_classes=3, generator__norm="virtual", generator__reference_batch_size=4, generator__width=16
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_an_image_does_not_depend_on_its_neighbors(name, generator):
    config = CONFIGS[name]
    config.check()
    g, _ = registry.build_networks(config, generator)
    z, y = torch.randn(6, config.z_dim, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2])
    g.reference.set(torch.randn(4, config.z_dim, generator=generator), torch.tensor([0, 1, 2, 0]))
    images = g(z, y)  # in training mode
    assert images.shape == (6, 3, config.resolution, config.resolution)
    assert torch.allclose(images[2:4], g(z[2:4], y[2:4]), atol=1e-5)
    other = torch.cat([z[:1], torch.randn(5, config.z_dim, generator=generator)])
    assert torch.allclose(images[:1], g(other, y)[:1], atol=1e-5)
    before = images.detach().clone()
    g.reference.set(torch.randn(4, config.z_dim, generator=generator), torch.tensor([0, 1, 2, 0]))
    assert not torch.allclose(before, g(z, y), atol=1e-3), "the reference batch matters"
