"""Walks, blends, neighbors, confusion and belief against closed forms, numpy and scikit-learn."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from biggan.analysis.diagnostics import compute_confusion_matrix, fraction_classified_as_real, most_confused_pairs
from biggan.analysis.latent_space import interpolate_images, lerp, mix_classes, parse_class_weights, slerp
from biggan.analysis.nearest_neighbors import find_nearest_neighbors
from biggan.metrics.features import Extracted
from biggan.models import registry
from biggan.models.biggan import BigGANConfig
from biggan.objectives.objective_config import ObjectiveConfig
from biggan.runtime.errors import ConfigError
from biggan.sampling.sampler import Sampler

NAMES = ("ant", "bee", "walrus")


@pytest.fixture
def sampler(generator):
    config = BigGANConfig(resolution=32, num_classes=3, width=2)
    network, _ = registry.build_networks(config, generator)
    for parameter in network.parameters():  # classes and latents must show
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return Sampler(network.eval(), latent_dim=config.z_dim, class_names=NAMES, standing_stats_batches=2)


def test_a_spherical_walk_goes_along_the_great_circle():
    first, second = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 4.0, 0.0])
    way = slerp(first, second, 4)
    angles = [0, math.pi / 6, math.pi / 3, math.pi / 2]
    gradient_norms = [2, 2 + 2 / 3, 2 + 4 / 3, 4]
    expected = [[length * math.cos(a), length * math.sin(a), 0] for length, a in zip(gradient_norms, angles, strict=True)]
    assert torch.allclose(way, torch.tensor(expected), atol=1e-6)
    assert torch.allclose(slerp(first, first, 3), first.expand(3, -1)), "no angle, no way"
    assert slerp(first, -first, 3).isfinite().all()
    assert torch.equal(lerp(first, second, 3)[1], torch.tensor([1.0, 2.0, 0.0]))


def test_the_ends_of_walks_are_plain_samples(sampler):
    images = interpolate_images(sampler, "both", [0, 2], rows=2, steps=5, interpolation="spherical", truncation=None, seed=3)
    assert images.shape == (2, 5, 3, 32, 32)
    z_NZ = sampler.latents(3, range(4), None)
    plain = sampler.images(z_NZ, torch.tensor([0, 2, 2, 0]))
    ends = torch.stack([images[0, 0], images[0, -1], images[1, 0], images[1, -1]])
    assert (ends.int() - plain.int()).abs().max() <= 1
    for what, still in (("latents", 0), ("classes", 1)):
        walk = interpolate_images(sampler, what, [0, 2], rows=1, steps=3, interpolation="linear", truncation=None, seed=3)[0]
        end = sampler.images(z_NZ[[0 if still else 1]], torch.tensor([2 if still else 0]))
        assert (walk[-1].int() - end[0].int()).abs().max() <= 1, what
        assert (walk[0].int() - walk[-1].int()).abs().max() > 1


def test_a_blend_of_one_class_is_the_class(sampler):
    found = mix_classes(sampler, torch.tensor([0.0, 1.0, 0.0]), 3, truncation=0.5, seed=1)
    plain = sampler.sample(3, classes=["bee"], truncation=0.5, seed=1).images
    assert (found.int() - plain.int()).abs().max() <= 1
    mixed = mix_classes(sampler, torch.tensor([0.5, 0.5, 0.0]), 3, truncation=0.5, seed=1)
    assert (mixed.int() - plain.int()).abs().max() > 1


def test_weights(sampler):
    assert torch.allclose(parse_class_weights("ant:3, walrus:1", sampler), torch.tensor([0.75, 0, 0.25]))
    for text, message in (("ant", "and its weight"), ("ant:x", "and its weight"), ("ant:0", "above 0"), ("nat:1", "'ant'")):
        with pytest.raises(ConfigError, match=message):
            parse_class_weights(text, sampler)


def test_neighbors_are_the_nearest(generator):
    samples = torch.randint(256, (4, 3, 2, 2), dtype=torch.uint8, generator=generator)
    real = torch.randint(256, (50, 3, 2, 2), dtype=torch.uint8, generator=generator)
    found = find_nearest_neighbors(samples, zip(real.split(7), range(8), strict=True), None, 3)
    table = np.linalg.norm(samples.flatten(1).double().numpy()[:, None] - real.flatten(1).double().numpy()[None], axis=2)
    places = np.argsort(table, axis=1)[:, :3]
    assert torch.equal(found.images, real[torch.from_numpy(places)])
    assert np.allclose(found.distances, np.sort(table, axis=1)[:, :3], rtol=1e-4)


def test_confusion(generator):
    asked, logits = torch.randint(3, (60,), generator=generator), torch.randn(60, 3, generator=generator)
    images = torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1).expand(60, 3, 2, 2)
    answers = iter(logits.split(25))
    batches = zip(images.split(25), asked.split(25), strict=True)
    found = compute_confusion_matrix(batches, lambda x: Extracted(x, next(answers)), 3, max_examples=2)
    assert (found.counts.numpy() == confusion_matrix(asked, logits.argmax(1))).all()
    first = [n for n in range(60) if asked[n] == 1 and logits[n].argmax() == 2][:2]
    assert [image[0, 0, 0].item() for image in found.examples[1, 2]] == first
    assert most_confused_pairs(torch.tensor([[5, 5, 0], [1, 9, 0], [0, 0, 0]]), 9) == [(0, 1, 0.5), (1, 0, 0.1)]
    other = SimpleNamespace(name="other")
    extractor = type("E", (), {"name": "other", "__call__": lambda self, x: Extracted(x, torch.zeros(len(x), 4))})()
    with pytest.raises(ConfigError, match=f"{other.name} knows 4 classes, the model has 3"):
        compute_confusion_matrix([(images[:2], asked[:2])], extractor, 3)


@pytest.mark.parametrize(
    ("settings", "fraction"),
    [
        ({"loss": "hinge"}, 3 / 6),  # boundary 0
        ({"loss": "least-squares"}, 2 / 6),  # 0.5
        ({"loss": "non-saturating", "real_target": 0.8}, 4 / 6),  # log(0.4 / 0.6) = -0.405
        ({"loss": "semi-supervised", "real_target": 0.7, "feature_matching": "l1"}, 5 / 6),  # log(0.35 / 0.65) = -0.619
    ],
)
def test_memorization_by_the_decision_boundary_of_the_loss(settings, fraction):
    brightness = torch.nn.Module()
    brightness.forward = lambda x, y: SimpleNamespace(logits=x.mean((1, 2, 3)))
    objective = ObjectiveConfig(**settings).build()
    pixels = torch.tensor([0, 60, 100, 128, 200, 255], dtype=torch.uint8)  # -1, -0.53, -0.22, 0.004, 0.57, 1 in [-1, 1]
    images = pixels.view(6, 1, 1, 1).expand(6, 3, 2, 2)
    batches = zip(images.split(4), torch.zeros(6, dtype=torch.int64).split(4), strict=True)
    assert fraction_classified_as_real(brightness, batches, torch.device("cpu"), objective) == fraction
