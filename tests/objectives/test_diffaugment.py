"""Differentiable augmentation against its definition: what may change, what may not, and the gradient through it."""

import pytest
import torch
import torch.nn.functional as F

from biggan.objectives.diffaugment import AugmentConfig, brightness, contrast, cutout, flip, saturation, translate
from biggan.runtime.errors import ConfigError


@pytest.fixture
def images(generator):
    torch.manual_seed(0)
    return torch.randn(64, 3, 8, 8, generator=generator, dtype=torch.float64)


def test_translation_is_a_shift_with_zeros(images):
    moved = translate(images, share=0.25)
    shifts = set()
    for before, after in zip(images, moved, strict=True):
        found = []
        for down in range(-2, 3):
            for right in range(-2, 3):
                wanted = torch.zeros_like(before)
                rows, columns = slice(max(0, down), 8 + min(0, down)), slice(max(0, right), 8 + min(0, right))
                from_rows = slice(max(0, -down), 8 + min(0, -down))
                wanted[:, rows, columns] = before[:, from_rows, slice(max(0, -right), 8 + min(0, -right))]
                if torch.equal(after, wanted):
                    found.append((down, right))
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) > 15, "every image has its own of the 25"


def by_indexing(x, share):
    """The images that `translate` draws, by indexing, whose gradient torch knows."""
    height, width = x.shape[2:]
    most_y, most_x = round(height * share), round(width * share)
    down = torch.randint(-most_y, most_y + 1, (len(x), 1, 1))
    right = torch.randint(-most_x, most_x + 1, (len(x), 1, 1))
    rows = torch.arange(height).view(1, -1, 1) - down + most_y
    columns = torch.arange(width).view(1, 1, -1) - right + most_x
    padded = F.pad(x, (most_x, most_x, most_y, most_y))
    return padded.permute(0, 2, 3, 1)[torch.arange(len(x)).view(-1, 1, 1), rows, columns].permute(0, 3, 1, 2)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("share", [0.0, 1 / 8, 0.6, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_translation_and_its_gradients_are_those_of_indexing_to_the_bit(generator, memory_format, share, dtype):
    base = torch.randn(16, 3, 8, 6, generator=generator).to(dtype).to(memory_format=memory_format)
    weights = torch.randn(16, 3, 8, 6, generator=generator).to(dtype)
    found = []
    for function in (translate, by_indexing):
        torch.manual_seed(2)
        x = base.clone().requires_grad_(True)
        moved = function(x, share)
        (gradient,) = torch.autograd.grad((moved.square() * weights).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), x)  # as an R1 penalty takes it
        found.append((moved, gradient, second))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride()


def test_the_gradient_of_a_translation_only_reads(generator):
    """No sum over an index is left in the backward pass: on a GPU its order would not be fixed."""
    x = torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        (gradient,) = torch.autograd.grad(translate(x).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert "aten::index_select" in names
    assert not [name for name in names if any(word in name for word in ("index_put", "index_add", "scatter"))]

    def same_draws(x):
        torch.manual_seed(1)
        return translate(x, share=0.25)

    small = x[:2, :2, :4, :4].detach().clone().requires_grad_(True)
    assert torch.autograd.gradcheck(same_draws, (small,))
    assert torch.autograd.gradgradcheck(same_draws, (small,))


def test_cutout_is_a_square_of_zeros(images):
    cut = cutout(images)
    sizes = []
    for before, after in zip(images, cut, strict=True):
        gone = (after == 0).all(0)
        assert torch.equal(after[:, ~gone], before[:, ~gone])
        rows, columns = gone.any(1).sum().item(), gone.any(0).sum().item()
        assert gone.sum().item() == rows * columns, "a rectangle"
        sizes.append((rows, columns))
    assert max(sizes) == (4, 4)
    assert min(sizes) >= (2, 2)


def test_colors_keep_what_they_keep(images):
    difference = brightness(images) - images
    assert torch.allclose(difference, difference[:, :1, :1, :1].expand_as(difference))
    assert difference.abs().max() <= 0.5
    assert torch.allclose(saturation(images).mean(1), images.mean(1)), "the gray image stays"
    changed = contrast(images)
    assert torch.allclose(changed.mean((1, 2, 3)), images.mean((1, 2, 3)))
    spread = [(x - x.mean((1, 2, 3), keepdim=True)).norm() for x in (changed, images)]
    assert 0.5 < spread[0] / spread[1] < 1.5
    mirrored = flip(images)
    kept = [torch.equal(a, b) for a, b in zip(mirrored, images, strict=True)]
    assert 16 < sum(kept) < 48
    assert all(torch.equal(a, b if k else b.flip(2)) for a, b, k in zip(mirrored, images, kept, strict=True))


@pytest.mark.parametrize("policy", [("color",), ("translation",), ("cutout",), ("color", "translation", "cutout")])
def test_gradients_pass(images, policy):
    augment = AugmentConfig(policy=policy).build()
    x = images[:3].clone().requires_grad_(True)

    def same_draws(x):
        torch.manual_seed(1)
        return augment(x)

    assert torch.autograd.gradcheck(same_draws, (x,))
    assert torch.equal(AugmentConfig().build()(images), images)


def test_each_change_once():
    with pytest.raises(ConfigError, match="each change once"):
        AugmentConfig(policy=("cutout", "cutout")).check()
