"""Differentiable augmentation against its definition: what may change, what may not, and the gradient through it."""

import pytest
import torch

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
