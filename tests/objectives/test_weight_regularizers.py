"""Regularizers of weights: losses against loops, gradients against closed forms and autograd, the clamp against SVD."""

import pytest
import torch

from biggan.models import registry
from biggan.models.biggan import BigGANConfig
from biggan.nn.layers import Linear, ReparametrizedLayer
from biggan.nn.prepared_weights import PreparedWeights
from biggan.nn.reparametrization import Identity
from biggan.objectives.regularization_config import (
    DiscriminatorRegularization,
    GeneratorRegularization,
    RegularizationConfig,
)
from biggan.objectives.regularizer import PenaltyInputs
from biggan.objectives.weight_regularizers import (
    L2,
    GradientClip,
    HistoricalAverage,
    Orthogonal,
    OrthogonalGradient,
    SigmaBound,
    SigmaClamp,
    SigmaPenalty,
    regularized_weights,
    stacked_weights_and_gradients,
)
from biggan.runtime.errors import ConfigError

CONTEXT = PenaltyInputs()


def printed_loss(weight, full):
    """||W W' * (1 - I)||^2, or ||W W' - I||^2, as printed."""
    gram, unit = weight @ weight.T, torch.eye(len(weight), dtype=weight.dtype)
    return (gram - unit).square().sum() if full else (gram * (1 - unit)).square().sum()


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (4, 4)])
def test_loss_and_gradient_against_autograd_of_the_printed_formula(shape, full, generator):
    net = torch.nn.Sequential(Linear(*shape[::-1], reparametrization=Identity)).double()
    with torch.no_grad():
        net[0].weight.normal_(generator=generator)
    (wanted,) = torch.autograd.grad(0.3 * printed_loss(net[0].weight, full), net[0].weight)
    net[0].weight.grad = torch.full_like(wanted, 2.0)
    value = Orthogonal(0.3, full).before_step(net)
    assert value.item() == pytest.approx(0.3 * printed_loss(net[0].weight.detach(), full).item())
    assert torch.allclose(net[0].weight.grad, 2 + wanted)


@pytest.mark.parametrize("prepared", [False, True])
def test_sum_over_the_generator_against_autograd_of_the_printed_formula(prepared, generator):
    """Layers one by one, and with weights that lie side by side in memory, some in channels-last order."""
    g, _ = registry.build_networks(BigGANConfig(resolution=32, num_classes=3, width=2), generator)
    z, y = torch.randn(4, g.config.z_dim, generator=generator), torch.tensor([0, 1, 2, 0])
    if prepared:
        g = g.to(memory_format=torch.channels_last)
        weights = PreparedWeights(g, torch.float32)
        weights.prepare()
        weights.attach()
    g(z, y).square().sum().backward()
    if prepared:
        weights.detach()
        stacks = [len(weight_LOM) for weight_LOM, _ in stacked_weights_and_gradients(g)]
        assert max(stacks) > 1, "layers of one shape are taken together"
    of_the_loss = {name: parameter.grad.clone() for name, parameter in g.named_parameters()}
    value = Orthogonal(1e-2).before_step(g)
    regularized = {name: p for name, p in g.named_parameters() if p.dim() >= 2 and name != "embedding.weight"}
    total = 1e-2 * sum(printed_loss(parameter.flatten(1), False) for parameter in regularized.values())
    assert value.item() == pytest.approx(total.item(), rel=1e-4)
    wanted = dict(zip(regularized, torch.autograd.grad(total, list(regularized.values())), strict=True))
    for name, parameter in g.named_parameters():
        added = wanted.get(name, torch.zeros(()))  # embeddings, biases and norms are not to be regularized
        assert torch.allclose(parameter.grad, of_the_loss[name] + added, atol=1e-5), name


def test_class_embeddings_are_left_out(generator):
    g, d = registry.build_networks(BigGANConfig(resolution=32, num_classes=3, width=2), generator)
    for net in (g, d):
        matrices = {name.removesuffix(".weight") for name, parameter in net.named_parameters() if parameter.dim() >= 2}
        assert matrices - {name for name, _ in regularized_weights(net)} == {"embedding" if net is g else "head.embedding"}


def test_an_orthogonal_network_costs_nothing(generator):
    g, _ = registry.build_networks(BigGANConfig(resolution=32, num_classes=3, width=2), generator)
    tall = sum(
        layer.weight.shape[0] > layer.weight[0].numel() for layer in g.modules() if isinstance(layer, ReparametrizedLayer)
    )
    wide = [
        printed_loss(layer.weight.detach().flatten(1), False).item()
        for layer in g.modules()
        if isinstance(layer, ReparametrizedLayer) and layer.weight.shape[0] <= layer.weight[0].numel()
    ]
    assert max(wide) < 1e-4
    assert tall, "more filters than inputs cannot all be orthogonal: the test looks at the others"


def network(generator, rows=5, columns=9):
    """One layer (rows, columns) without a rule."""
    layer = Linear(columns, rows, reparametrization=Identity, bias=False)
    with torch.no_grad():
        layer.weight.normal_(generator=generator)
    return torch.nn.Sequential(layer)


def test_the_gradient_form_is_half_of_the_printed_loss(generator):
    """docs/papers/biggan.md, "Orthogonal regularization": the author's strength s is a loss of weight s / 2."""
    net = network(generator)
    (wanted,) = torch.autograd.grad(0.5e-2 * printed_loss(net[0].weight, False), net[0].weight)
    net[0].weight.grad = torch.full_like(wanted, 3.0)
    OrthogonalGradient(1e-2).before_step(net)
    assert torch.allclose(net[0].weight.grad, 3 + wanted)


@pytest.mark.parametrize("shape", [(12, 20), (300, 400)])
@pytest.mark.parametrize("ratio", [None, 1.02])
def test_the_clamp_moves_one_singular_value(shape, ratio, generator):
    net = network(generator, *shape)
    with torch.no_grad():  # a leading value apart from the rest
        net[0].weight += 30 * torch.outer(
            *[torch.nn.functional.normalize(torch.randn(n, generator=generator), dim=0) for n in shape]
        )
    before = torch.linalg.svdvals(net[0].weight.detach().double())
    bound = 0.9 * before[0].item() if ratio is None else ratio * before[1].item()
    SigmaClamp(SigmaBound(bound if ratio is None else None, ratio, "")).after_step(net)
    after = torch.linalg.svdvals(net[0].weight.detach().double())
    assert after[0].item() == pytest.approx(bound, rel=1e-5)
    assert torch.allclose(after[1:], before[1:], rtol=1e-4)
    SigmaClamp(SigmaBound(1e6, None, "")).after_step(net)
    assert torch.equal(torch.linalg.svdvals(net[0].weight.detach().double()), after), "below its bound nothing moves"


@pytest.mark.parametrize("bound", [SigmaBound(0.5, None, ""), SigmaBound(None, 1.5, "")])
def test_sigma_penalty_against_autograd_through_svd(bound, generator):
    net = network(generator)
    SigmaPenalty(bound, strength=0.3).penalty(net, CONTEXT).backward()
    got, net[0].weight.grad = net[0].weight.grad, None
    values = torch.linalg.svdvals(net[0].weight)
    target = 0.5 if bound.ratio is None else 1.5 * values[1].detach()
    (0.3 * (values[0] - target) ** 2).backward()
    assert torch.allclose(got, net[0].weight.grad, atol=1e-5)


def test_l2_and_clipping(generator):
    net = network(generator)
    assert L2(0.1).penalty(net, CONTEXT).item() == pytest.approx(0.1 * net[0].weight.square().sum().item())
    net[0].weight.grad = torch.full_like(net[0].weight, 2.0)
    GradientClip(1.5).before_step(net)
    assert net[0].weight.grad.norm().item() == pytest.approx(1.5, rel=1e-4)
    GradientClip(99.0).before_step(net)
    assert net[0].weight.grad.norm().item() == pytest.approx(1.5, rel=1e-4)


def test_bounds_name_layers(generator):
    g, _ = registry.build_networks(BigGANConfig(resolution=32, num_classes=3, width=2), generator)
    names = [name for name, _ in regularized_weights(g)]
    assert [name for name, _ in SigmaBound(1.0, None, "conv_1").select_weights(g)] == [
        name for name in names if "conv_1" in name
    ]
    with pytest.raises(ConfigError, match="in no name of a weight"):
        SigmaBound(1.0, None, "absent").select_weights(g)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"orthogonal": 0.0}, "None for off"),
        ({"l2": -1.0}, "l2=-1.0 must be above 0"),
        ({"sigma_penalty": 1.0}, "one of sigma_bound"),
        ({"sigma_clamp": True, "sigma_bound": 1.0, "sigma_ratio": 2.0}, "one of sigma_bound"),
        ({"sigma_clamp": True, "sigma_ratio": 0.5}, "at least 1"),
        ({"sigma_bound": 2.0}, "needs sigma_penalty or sigma_clamp"),
    ],
)
def test_strengths_must_make_sense(settings, message):
    with pytest.raises(ConfigError, match=message):
        RegularizationConfig(generator=GeneratorRegularization(**settings)).check()


def test_what_is_on():
    off = RegularizationConfig(generator=GeneratorRegularization(orthogonal=None))
    assert (off.generator.build(), off.discriminator.build()) == ((), ())
    everything = {"orthogonal": 1.0, "sigma_penalty": 1.0, "sigma_clamp": True, "sigma_bound": 1.0, "l2": 1.0}
    everything |= {"max_grad_norm": 1.0, "r1": 1.0, "r2": 1.0, "lecam": 1.0, "consistency": 1.0}
    kinds = [type(r).__name__ for r in DiscriminatorRegularization(**everything).build()]
    assert kinds == ["Orthogonal", "SigmaPenalty", "L2", "GradientClip", "SigmaClamp", "R1", "R2", "LeCam", "Consistency"]
    gradient = GeneratorRegularization(orthogonal_form="gradient").build()
    assert [type(r).__name__ for r in gradient] == ["OrthogonalGradient"]


def test_historical_average_is_the_mean_of_all_iterates(generator):
    """Salimans et al. 2016, section 3.3: || theta - (1 / t) sum of theta[i] ||^2, over 50 steps, resumed in between."""
    net = torch.nn.Linear(4, 3)
    regularizer = HistoricalAverage(0.5)
    iterates = [torch.cat([p.detach().flatten() for p in net.parameters()])]
    for step in range(50):
        if step == 20:
            kept = {name: tensor.clone() for name, tensor in regularizer.state_dict().items()}
            regularizer = HistoricalAverage(0.5)
            regularizer.load_state_dict(kept)
        penalty = regularizer.penalty(net, CONTEXT)
        expected = 0.5 * (iterates[-1] - torch.stack(iterates).mean(0)).square().sum()
        assert penalty.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-9)
        net.zero_grad()
        penalty.backward()
        slope = torch.cat([p.grad.flatten() for p in net.parameters()])
        assert torch.allclose(slope, iterates[-1] - torch.stack(iterates).mean(0), atol=1e-5)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        regularizer.after_step(net)
        iterates.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    means = torch.cat([regularizer.means[name].flatten() for name, _ in net.named_parameters()])
    assert torch.allclose(means, torch.stack(iterates).mean(0), atol=1e-5)
