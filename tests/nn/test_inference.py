"""Networks prepared for inference against the original ones in evaluation mode."""

import pytest
import torch
from conftest import model_config

from biggan.models import registry
from biggan.models.registry import FAMILIES
from biggan.nn.batch_norm import BatchNorm
from biggan.nn.inference import for_inference
from biggan.nn.layers import ReparametrizedLayer
from biggan.nn.reparametrization import Identity
from biggan.sampling.standing_statistics import collect_standing_statistics

OPTIONS = {
    **{name: {} for name in FAMILIES if not name.startswith("improved")},
    "biggan, bilinear": {"generator__upsampling": "bilinear"},
    "biggan, dilated": {"generator__dilation": 2, "generator__kernel_size": 5},
    "biggan, no norm": {"generator__norm": "none", "generator__reparametrization": "weight-norm"},
    "biggan, perceptron": {"conditioning": "mlp"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_same_function(name, generator):
    family = FAMILIES[name.split(",")[0]]
    config = model_config(
        family.config, resolution=32, num_classes=3, width=8, embedding_dim=8, generator__attention=(16,), **OPTIONS[name]
    )
    g, d = registry.build_networks(config, generator)
    with torch.no_grad():
        for parameter in g.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        z, y = torch.randn(6, config.z_dim, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2])
        g.eval()
        if any(isinstance(layer, BatchNorm) for layer in g.modules()):
            with collect_standing_statistics(g):
                g(z, y)
        before = {key: value.clone() for key, value in g.state_dict().items()}
        for memory_format in (torch.contiguous_format, torch.channels_last):
            fast = for_inference(g, torch.float32, memory_format)
            assert torch.allclose(fast(z, y), g(z, y), atol=2e-5)
            assert not any(isinstance(layer, BatchNorm) for layer in fast.modules())
            assert all(
                isinstance(layer.reparametrization, Identity)
                for layer in fast.modules()
                if isinstance(layer, ReparametrizedLayer)
            )
        assert (for_inference(g, torch.bfloat16, torch.channels_last)(z, y) - g(z, y)).abs().mean() < 0.03
        x = torch.randn(6, 3, 32, 32, generator=generator)
        assert torch.allclose(
            for_inference(d, torch.float32, torch.channels_last)(x, y).logits, d.eval()(x, y).logits, rtol=1e-3
        )
    assert all(torch.equal(value, before[key]) for key, value in g.state_dict().items()), "the original network is unchanged"
