"""Every family of the table against the parameter counts of docs/papers/biggan.md, sums of products written out, and
its own output for other batches."""

import pytest
import torch
from conftest import model_config
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from biggan.models import registry
from biggan.models.biggan import BigGANConfig, SAGANConfig, SNGANConfig
from biggan.models.biggan_deep import BigGANDeepConfig
from biggan.models.registry import FAMILIES
from biggan.models.resnet_config import ResNetConfig
from biggan.nn.attention import SelfAttention
from biggan.nn.batch_norm import ConditionalNorm
from biggan.nn.layers import Conv2d, Embedding, Linear, ReparametrizedLayer
from biggan.sampling.standing_statistics import collect_standing_statistics
from biggan.training.flops import uncomputed


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(config) -> tuple[nn.Module, nn.Module]:
    family = FAMILIES[config.family]
    with torch.device("meta"):
        return family.generator(config), family.discriminator(config)


@pytest.mark.parametrize(
    ("config", "g_count", "d_count"),
    [
        (BigGANConfig(resolution=128), 70_433_988, 87_982_370),
        (BigGANConfig(resolution=256), 82_097_604, 99_225_890),
        (model_config(BigGANConfig, resolution=256, generator__attention=(64,)), 82_235_844, 99_225_890),
        (BigGANConfig(resolution=512), 82_468_068, 99_401_282),
        (BigGANConfig(resolution=512, latent_dim=128), 82_296_804, 99_401_282),
        (BigGANDeepConfig(resolution=128), 50_388_609, 34_590_210),
        (model_config(BigGANDeepConfig, resolution=128, generator__output_channels=3), 50_244_484, 34_590_210),
        (BigGANDeepConfig(resolution=256), 55_880_833, 38_247_426),
        (model_config(BigGANDeepConfig, resolution=256, generator__output_channels=3), 55_736_708, 38_247_426),
        (BigGANDeepConfig(resolution=512), 56_163_905, 38_301_122),
        (model_config(BigGANDeepConfig, resolution=512, generator__output_channels=3), 56_019_780, 38_301_122),
    ],
    ids=lambda value: f"{value.family}-{value.resolution}" if hasattr(value, "family") else str(value),
)
def test_parameter_counts(config, g_count, d_count):
    """docs/papers/biggan.md, "Parameter counts"."""
    g, d = on_meta(config.__class__(**{**vars(config), "num_classes": 1000}))
    assert count(g) == g_count
    assert count(d) == d_count


@pytest.mark.parametrize(
    ("options", "millions"),
    [
        ({"width": 64, "class_embedding": "per-class", "latent_injection": "input", "latent_dim": 128}, 81.47),
        ({"width": 96, "class_embedding": "per-class", "latent_injection": "input", "latent_dim": 128}, 173.54),
        ({"width": 96, "class_embedding": "shared", "latent_injection": "input", "latent_dim": 128}, 160.77),
        ({"width": 96}, 158.42),
        ({"width": 64}, 71.43),
    ],
)
def test_parameter_counts_of_table_1(options, millions):
    """Both networks together; docs/papers/biggan.md, "Table 1", the notes below it."""
    assert sum(map(count, on_meta(BigGANConfig(num_classes=1000, **options)))) / 1e6 == pytest.approx(millions, abs=0.006)


def test_sagan_is_the_baseline_of_table_1():
    assert sum(map(count, on_meta(SAGANConfig(num_classes=1000)))) / 1e6 == pytest.approx(81.47, abs=0.006)


def test_biggan_128_layer_by_layer():
    """docs/papers/biggan.md, "Parameter counts", layer by layer: BigGAN 128."""
    g, d = on_meta(BigGANConfig(num_classes=1000))
    assert count(g.embedding) == 128_000
    assert count(g.linear) == 516_096
    assert [count(block) for block in g.blocks] == [45_740_544, 17_789_184, 4_618_368, 1_240_128, 352_800]
    assert count(g.attention) == 46_081
    assert count(g.output_norm) + count(g.output_conv) == 2_787
    assert [count(block) for block in d.blocks] == [86_112, 516_672, 2_065_536, 8_259_840, 33_034_752, 42_470_400]
    assert count(d.attention) == 11_521
    assert count(d.head.linear) == 1_537
    assert count(d.head.embedding) == 1_536_000


def test_biggan_deep_128_layer_by_layer():
    """docs/papers/biggan.md, "Parameter counts", layer by layer: deep 128, with three output channels."""
    g, d = on_meta(model_config(BigGANDeepConfig, num_classes=1000, generator__output_channels=3))
    assert count(g.embedding) == 128_000
    assert count(g.linear) == 8_421_376
    assert [count(block) for block in g.blocks] == [
        *(8_654_336, 8_654_336, 8_654_336, 8_129_024, 2_623_232),
        *(2_491_648, 885_632, 852_608, 336_320, 328_000),
    ]
    assert count(g.attention) == 81_921
    assert count(g.output_norm) + count(g.output_conv) == 3_715
    assert count(d.stem) == 3_584
    assert [count(block) for block in d.blocks] == [
        *(115_264, 106_944, 459_904, 426_880, 1_837_312),
        *(1_705_728, 7_344_640, 6_819_328, 6_819_328, 6_819_328),
    ]
    assert count(d.attention) == 81_921
    assert count(d.head.linear) == 2_049
    assert count(d.head.embedding) == 2_048_000


RESIDUAL = [name for name, family in FAMILIES.items() if issubclass(family.config, ResNetConfig)]
EVERYWHERE = [(name, size) for name in RESIDUAL for size in FAMILIES[name].config().resolutions]


def small(name: str, resolution: int = 32, **changes: object):
    settings = {"resolution": resolution, "num_classes": 3, "width": 4, "embedding_dim": 8}
    settings |= {"generator__attention": (), "discriminator__attention": ()}
    config = model_config(FAMILIES[name].config, **(settings | changes))
    config.check()
    return config


@pytest.mark.parametrize(("name", "resolution"), EVERYWHERE)
def test_forward_and_backward_at_every_resolution(name, resolution, generator):
    config = small(name, resolution)
    g, d = registry.build_networks(config, generator)
    z, y = torch.randn(2, config.z_dim, generator=generator), torch.tensor([0, 2])
    image = g(z, y)
    assert image.shape == (2, 3, resolution, resolution)
    assert image.dtype == torch.float32
    assert image.abs().max() <= 1
    output = d(image, y)
    assert output.logits.shape == (2,)
    assert output.features.shape[0] == 2
    output.logits.sum().backward()
    assert all(p.grad is not None for network in (g, d) for p in network.parameters())


@pytest.mark.parametrize("name", RESIDUAL)
def test_evaluation_does_not_depend_on_the_batch(name, generator):
    config = small(name, discriminator__norm="batch")
    g, d = registry.build_networks(config, generator)
    z, y = torch.randn(4, config.z_dim, generator=generator), torch.tensor([0, 1, 2, 0])
    g.eval()
    d.eval()
    with torch.no_grad():
        with collect_standing_statistics(g), collect_standing_statistics(d):
            d(g(z, y), y)
        image = g(z, y)
        assert torch.allclose(image[2:3], g(z[2:3], y[2:3]), atol=1e-5)
        assert torch.allclose(d(image, y).logits[2:3], d(image[2:3], y[2:3]).logits, atol=1e-4)


def products(layer: nn.Module, x: torch.Tensor, out: torch.Tensor) -> int:
    """Multiply-adds of one layer for this input and output, with those of its spectral norm (three passes of the
    matrix, and one dot product)."""
    if isinstance(layer, SelfAttention):
        pixels = x.shape[2] * x.shape[3]
        return len(x) * pixels * (pixels // 4) * (x.shape[1] // 8 + x.shape[1] // 2)
    norm = 0
    if hasattr(layer.reparametrization, "u"):
        norm = 3 * layer.weight.numel() + layer.weight[0].numel()
    if isinstance(layer, Embedding):
        return norm
    if isinstance(layer, Linear):
        return norm + len(x) * layer.weight.numel()
    outputs, inputs, kernel, _ = layer.weight.shape
    resized = x.shape[2] != out.shape[2]
    smaller = min(x.shape[2], out.shape[2]) ** 2  # a resampling kernel of k + 1 meets each place of the smaller side once
    taps = (kernel + 1) ** 2 if resized else kernel**2
    return norm + len(x) * smaller * taps * inputs * (layer.computed_outputs or outputs)


@pytest.mark.parametrize(("name", "resolution"), EVERYWHERE)
def test_flop_are_the_products_of_the_layers(name, resolution):
    config = FAMILIES[name].config(resolution=resolution, num_classes=10, width=16)
    networks = [uncomputed(network) for network in on_meta(config)]
    total = 0

    def add(layer, inputs, out):
        nonlocal total
        total += products(layer, inputs[0], out)

    for network in networks:
        for layer in network.modules():
            if isinstance(layer, (ReparametrizedLayer, SelfAttention)):
                assert isinstance(layer, (Conv2d, Linear, Embedding, SelfAttention))
                layer.register_forward_hook(add)
            if isinstance(layer, ConditionalNorm) and isinstance(layer.gain, Linear):  # used without a call of their own
                total += sum(products(linear, torch.empty(2, 1), None) for linear in (layer.gain, layer.bias))
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counted:
        z, y = torch.empty(2, config.z_dim), torch.empty(2, dtype=torch.int64)
        networks[1](networks[0](z, y), y)
    tables = 2 * 2 * 10 * sum(p.shape[1] for p in networks[0].parameters() if p.shape[:1] == (10,))
    extra = tables if config.class_embedding == "per-class" else 0
    assert counted.get_total_flops() == pytest.approx(2 * total + extra, rel=1e-6)


def test_sngan_differs_from_sagan_where_the_papers_do():
    """docs/papers/biggan.md, "SN-GAN": no spectral norm in G, no attention, D's hidden width that of the inputs."""
    sagan, sngan = on_meta(SAGANConfig(num_classes=10)), on_meta(SNGANConfig(num_classes=10))
    assert {
        type(layer.reparametrization).__name__ for layer in sngan[0].modules() if isinstance(layer, ReparametrizedLayer)
    } == {"Identity"}
    assert {
        type(layer.reparametrization).__name__ for layer in sngan[1].modules() if isinstance(layer, ReparametrizedLayer)
    } == {"SpectralNorm"}
    assert not sngan[0].attention
    assert not sngan[1].attention
    assert [block.conv_1.weight.shape[0] for block in sngan[1].blocks] == [64, 64, 128, 256, 512, 1024]
    assert [block.conv_1.weight.shape[0] for block in sagan[1].blocks] == [64, 128, 256, 512, 1024, 1024]
    assert list(sagan[0].attention) == list(sagan[1].attention) == ["64"]
