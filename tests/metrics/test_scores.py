"""Scores against torch-fidelity's arithmetic and direct sums in numpy; sets that are hard."""

import math

import numpy as np
import pytest
import torch

from biggan.metrics import prdc
from biggan.metrics.prdc import nearest_neighbors, precision_recall_density_coverage
from biggan.metrics.scores import InceptionScore, Moments, frechet_distance, kernel_distance
from biggan.runtime.errors import DataError

fidelity = pytest.importorskip("torch_fidelity")


def features(count, width, generator, shift=0.0):
    mix = torch.randn(width, width, generator=generator) / math.sqrt(width)
    return (torch.randn(count, width, generator=generator) @ mix + shift).relu()


def moments_of(values, piece=300):
    moments = Moments()
    for part in values.split(piece):
        moments.add(part)
    return moments.mean_and_covariance()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device on this machine")
def test_moments_are_accumulated_where_the_features_are(generator):
    values = features(700, 64, generator, 20.0)
    mean, covariance = moments_of(values.cuda())
    assert mean.device == covariance.device == torch.device("cpu")
    assert np.allclose(mean, values.double().numpy().mean(0), atol=1e-12)
    assert np.allclose(covariance, np.cov(values.double().numpy(), rowvar=False), atol=1e-12)


@pytest.mark.parametrize("count", [2000, 40])
def test_frechet_distance(generator, count):
    """Also with fewer images than features."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    first, second = features(count, 64, generator), features(1500, 64, generator, 0.3)
    expected = fid_statistics_to_metric(*map(fid_features_to_statistics, (first, second)), False)
    found = frechet_distance(moments_of(first), moments_of(second))
    assert found == pytest.approx(expected["frechet_inception_distance"], rel=1e-4)
    mean, covariance = moments_of(first, piece=7)
    assert np.allclose(mean, first.double().numpy().mean(0), atol=1e-12)
    assert np.allclose(covariance, np.cov(first.double().numpy(), rowvar=False), atol=1e-12)


def test_frechet_distance_of_hard_sets(generator):
    same = features(30, 64, generator)
    assert frechet_distance(moments_of(same), moments_of(same)) < 1e-3
    constant = torch.full((50, 64), 3.0)
    assert frechet_distance(moments_of(constant), moments_of(constant)) < 1e-3
    assert frechet_distance(moments_of(constant), moments_of(constant + 2)) == pytest.approx(64 * 4, rel=1e-6)
    large = 1e4 + features(500, 16, generator)
    assert frechet_distance(moments_of(large), moments_of(large)) < 1e-3
    with pytest.raises(DataError, match="at least 2 images, there are 1"):
        moments_of(same[:1])


@pytest.mark.parametrize("count", [1000, 997])
def test_inception_score(generator, count):
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = 3 * torch.randn(count, 20, generator=generator)
    expected = isc_features_to_metric(logits, 10, shuffle=False)
    entropies = InceptionScore(count, 10)
    for part in logits.split(64):
        entropies.add(part)
    score = entropies.score()
    assert score.mean == pytest.approx(expected["inception_score_mean"], rel=1e-10)
    assert score.std == pytest.approx(expected["inception_score_std"], rel=1e-8)


def test_inception_score_of_hard_sets():
    certain, same = InceptionScore(40, 2), InceptionScore(40, 2)
    certain.add(torch.eye(4).repeat(10, 1) * 1e4)
    same.add(torch.ones(40, 4))
    assert certain.score().mean == pytest.approx(4), "as many as classes"
    assert same.score().mean == pytest.approx(1)
    few = InceptionScore(5, 10)
    few.add(torch.ones(5, 4))
    with pytest.raises(DataError, match="at least one image each"):
        few.score()


def test_kernel_distance(generator):
    from torch_fidelity.metric_kid import kid_features_to_metric

    first, second = features(700, 64, generator), features(500, 64, generator, 0.3)
    options = {"kid_subsets": 20, "kid_subset_size": 200, "rng_seed": 7, "verbose": False}
    expected = kid_features_to_metric(first, second, **options)
    found = kernel_distance(first, second, subsets=20, size=200, seed=7)
    assert found.mean == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-4)
    assert found.std == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-4)
    with pytest.raises(DataError, match="not 500"):
        kernel_distance(first, second, size=501)


@pytest.mark.parametrize("rows", [1000, 37])
def test_overlap(generator, monkeypatch, rows):
    """Precision and recall by torch-fidelity; density and coverage from whole tables of distances in numpy."""
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    monkeypatch.setattr(prdc, "BLOCK_QUERIES", rows)
    real, fake = features(300, 8, generator), features(200, 8, generator, 0.2)
    found = precision_recall_density_coverage(real, fake)
    assert (found.precision, found.recall) == pytest.approx(calculate_precision_recall_full(fake, real, 3))
    x, y = real.double().numpy(), fake.double().numpy()
    within = np.linalg.norm(x[:, None] - x[None], axis=2)
    between = np.linalg.norm(x[:, None] - y[None], axis=2)
    ball = np.sort(within, axis=1)[:, 5]
    assert found.density == pytest.approx((between < ball[:, None]).sum(0).mean() / 5, rel=1e-3)
    assert found.coverage == pytest.approx((between.min(1) < ball).mean())
    assert 0.1 < found.coverage < 1


def test_overlap_of_hard_sets(generator):
    real = features(50, 8, generator)
    same, far = precision_recall_density_coverage(real, real), precision_recall_density_coverage(real, real + 100)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert far == (0, 0, 0, 0)
    constant = precision_recall_density_coverage(torch.ones(20, 8), torch.ones(20, 8))
    assert all(math.isfinite(value) for value in constant)
    with pytest.raises(DataError, match="more than 5 generated images, there are 5"):
        precision_recall_density_coverage(real, real[:5])
    with pytest.raises(DataError, match="not finite"):
        precision_recall_density_coverage(real, real / 0)


def test_nearest(generator):
    queries, values = features(10, 8, generator), features(100, 8, generator)
    distances, places = nearest_neighbors(queries, values, 3)
    table = np.linalg.norm(queries.numpy()[:, None] - values.numpy()[None], axis=2)
    assert (places.numpy() == np.argsort(table, axis=1)[:, :3]).all()
    assert np.allclose(distances, np.sort(table, axis=1)[:, :3], atol=1e-5)
