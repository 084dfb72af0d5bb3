"""R1 and R2 against finite differences, LeCam and consistency against their formulas, and what they leave alone."""

import dataclasses

import pytest
import torch
from conftest import model_config

from biggan.models import registry
from biggan.models.biggan import BigGANConfig
from biggan.nn.heads import DiscriminatorOutput
from biggan.objectives.diffaugment import flip, translate
from biggan.objectives.gradient_penalties import R1, R2
from biggan.objectives.logit_regularizers import Consistency, LeCam
from biggan.objectives.regularizer import DiscriminatorPass, PenaltyInputs


@pytest.fixture
def discriminator(generator):
    """With attention, whose fused kernel has no second derivative; gamma is not 0."""
    config = model_config(BigGANConfig, resolution=32, num_classes=3, width=4, discriminator__attention=(16,))
    _, d = registry.build_networks(config, generator)
    with torch.no_grad():
        d.attention["16"].gamma.fill_(0.5)
    for _ in range(30):
        d(torch.randn(2, 3, 32, 32, generator=generator), torch.zeros(2, dtype=torch.int64))  # settles the vectors
    return d.double()


def penalty_inputs(generator):
    images = torch.randn(2, 2, 3, 32, 32, generator=generator, dtype=torch.float64)
    labels = torch.tensor([2, 0]), torch.tensor([1, 1])
    real, fake = (DiscriminatorPass(x, y, None) for x, y in zip(images, labels, strict=True))
    return PenaltyInputs(real=real, fake=fake)


def test_lazy_is_as_many_times_as_strong(discriminator, generator):
    inputs = penalty_inputs(generator)
    discriminator.eval()
    assert R1(1.0, interval=4).penalty(discriminator, inputs).item() == R1(4.0).penalty(discriminator, inputs).item()


@pytest.mark.parametrize(("penalty", "side"), [(R1(4.0), "real"), (R2(4.0), "fake")])
def test_against_finite_differences(discriminator, generator, penalty, side):
    """The squared length of one image's gradient is the sum of squared difference quotients over all its pixels."""
    inputs = penalty_inputs(generator)
    images, labels = (values[:1] for values in getattr(inputs, side)[:2])
    inputs = dataclasses.replace(inputs, **{side: DiscriminatorPass(images, labels, None)})
    value = penalty.penalty(discriminator, inputs).item()
    discriminator.eval()

    def score(x):
        with torch.no_grad():
            return discriminator(x, labels.expand(len(x))).logits

    step, total = 1e-6, 0.0
    for moves in (step * torch.eye(3 * 32 * 32, dtype=torch.float64)).view(-1, 3, 32, 32).split(64):
        total += (((score(images + moves) - score(images - moves)) / (2 * step)) ** 2).sum().item()
    assert value == pytest.approx(4.0 / 2 * total, rel=1e-4)


def test_its_gradient_by_a_weight_against_differences(discriminator, generator):
    inputs, weight = penalty_inputs(generator), discriminator.blocks[1].conv_1.weight
    discriminator.eval()
    penalty = R1(2.0)
    penalty.penalty(discriminator, inputs).backward()
    direction = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * 1e-5 * direction
        values.append(penalty.penalty(discriminator, inputs).item())
        with torch.no_grad():
            weight -= sign * 1e-5 * direction
    # The vectors u and v are constants in the gradient and moved by the difference: settled, that is second order.
    assert (weight.grad * direction).sum().item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=2e-2)


def test_no_vector_moves(discriminator, generator):
    before = {name: buffer.clone() for name, buffer in discriminator.named_buffers()}
    assert discriminator.training
    R1(1.0).penalty(discriminator, penalty_inputs(generator))
    assert all(torch.equal(buffer, before[name]) for name, buffer in discriminator.named_buffers())
    assert all(module.training for module in discriminator.modules())


def test_lecam():
    lecam = LeCam(0.5, decay=0.9)
    scores = [(torch.tensor([1.0, 3.0]), torch.tensor([-2.0, 0.0])), (torch.tensor([4.0, 0.0]), torch.tensor([1.0, 5.0]))]
    real_mean = fake_mean = None
    for real, fake in scores:
        inputs = PenaltyInputs(
            real=DiscriminatorPass(None, None, DiscriminatorOutput(real, real, None)),
            fake=DiscriminatorPass(None, None, DiscriminatorOutput(fake, fake, None)),
        )
        value = lecam.penalty(None, inputs).item()
        r, f = real.mean().item(), fake.mean().item()
        real_mean = r if real_mean is None else 0.9 * real_mean + 0.1 * r
        fake_mean = f if fake_mean is None else 0.9 * fake_mean + 0.1 * f
        wanted = (real - fake_mean).clamp(min=0).square().mean() + (real_mean - fake).clamp(min=0).square().mean()
        assert value == pytest.approx(0.5 * wanted.item())
    other = LeCam(0.5, decay=0.9)
    other.load_state_dict(lecam.state_dict())
    assert other.penalty(None, inputs).item() == lecam.penalty(None, inputs).item()


class Sum(torch.nn.Module):
    """The score is a weighted sum of pixels."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, x, y_N):
        logits_N = (x * self.weight).sum((1, 2, 3))
        return DiscriminatorOutput(logits_N, logits_N, None)


def test_consistency(generator):
    """Nothing where every column has one weight and nothing is shifted out; else as the changed images say."""
    inner = torch.zeros(2, 3, 32, 32)
    inner[:, :, 8:24, 8:24] = torch.randn(2, 3, 16, 16, generator=generator)
    for weight, nothing in ((torch.ones(3, 32, 32), True), (torch.randn(3, 32, 32, generator=generator), False)):
        net = Sum(weight)
        inputs = PenaltyInputs(real=DiscriminatorPass(inner, None, net(inner, None)))
        torch.manual_seed(0)
        value = Consistency(2.0).penalty(net, inputs).item()
        torch.manual_seed(0)
        wanted = 2 * (net(translate(flip(inner)), None).logits - net(inner, None).logits).square().mean().item()
        assert value == pytest.approx(wanted)
        assert (value < 1e-6) == nothing
