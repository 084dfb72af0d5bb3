"""Priors and their truncation against scipy's distributions; addressed randomness."""

from typing import get_args

import pytest
import torch
from scipy import stats

from biggan.runtime.errors import ConfigError
from biggan.runtime.rng import addressed_rng, addressed_rngs, seed_torch
from biggan.sampling.latents import LatentConfig, LatentName, draw_labels

NORMAL = LatentConfig().build()
TAILLESS = ("uniform", "unit-uniform", "bernoulli", "rademacher", "categorical")


def drawn(name, generator, truncation=None, step=None, shape=(200, 100), **options):
    config = LatentConfig(distribution=name, **options)
    config.check()
    return config.build().draw(shape, generator, truncation, step)


@pytest.mark.parametrize(
    ("name", "options", "distribution"),
    [
        ("normal", {}, stats.norm()),
        ("uniform", {}, stats.uniform(-1, 2)),
        ("unit-uniform", {}, stats.uniform(0, 1)),
        ("annealed-normal", {}, stats.norm(scale=1)),
        ("annealed-normal", {"sigma": (3.0, 0.25)}, stats.norm(scale=0.5)),
        ("scaled-truncated-normal", {}, stats.truncnorm(-2, 2)),
    ],
)
def test_continuous_priors(name, options, distribution, generator):
    assert stats.kstest(drawn(name, generator, **options).flatten().numpy(), distribution.cdf).pvalue > 0.01


@pytest.mark.parametrize(
    ("name", "odds"),
    [
        ("bernoulli", {0: 1 / 2, 1: 1 / 2}),
        ("rademacher", {-1: 1 / 2, 1: 1 / 2}),
        ("categorical", {-1: 1 / 3, 0: 1 / 3, 1: 1 / 3}),
    ],
)
def test_discrete_priors(name, odds, generator):
    z = drawn(name, generator)
    counts = [int((z == value).sum()) for value in odds]
    assert sum(counts) == z.numel()
    assert stats.chisquare(counts, [odd * z.numel() for odd in odds.values()]).pvalue > 0.01


@pytest.mark.parametrize("truncation", [None, 0.8])
def test_priors_made_of_a_normal_and_something_else(truncation, generator):
    bound = 100 if truncation is None else truncation
    normal = stats.truncnorm(-bound, bound)
    censored = drawn("censored-normal", generator, truncation)
    assert (censored == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert stats.kstest(censored[censored > 0].numpy(), stats.truncnorm(0, bound).cdf).pvalue > 0.01
    product = drawn("normal-bernoulli-product", generator, truncation)
    assert (product == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert stats.kstest(product[product != 0].numpy(), normal.cdf).pvalue > 0.01
    halves = drawn("half-normal-half-bernoulli", generator, truncation, shape=(300, 101))
    assert stats.kstest(halves[:, :51].flatten().numpy(), normal.cdf).pvalue > 0.01
    assert set(halves[:, 51:].unique().tolist()) == {0.0, 1.0}
    assert halves[:, 51:].mean().item() == pytest.approx(0.5, abs=0.02)


def test_annealing_goes_from_the_first_sigma_to_the_second(generator):
    options = {"sigma": (2.0, 1.0), "annealing_steps": 100}
    for step, sigma in ((0, 2.0), (50, 1.5), (100, 1.0), (10_000, 1.0), (None, 1.0)):
        z = drawn("annealed-normal", generator, step=step, **options)
        assert z.var().item() == pytest.approx(sigma, rel=0.04)


def test_each_sample_has_its_own_variance(generator):
    z = drawn("varied-normal", generator, shape=(2000, 4000), sigma=(0.5, 1.5))
    assert stats.kstest(z.var(1).numpy(), stats.uniform(0.5, 1).cdf).pvalue > 0.01
    cut = drawn("varied-normal", generator, 0.6, sigma=(0.5, 1.5))
    assert 0.59 < cut.abs().max() <= 0.6001


@pytest.mark.parametrize("threshold", [2.0, 0.5, 0.04])
def test_truncation_is_the_truncated_normal(threshold, generator):
    z = drawn("normal", generator, threshold)
    assert z.abs().max() <= threshold
    assert stats.kstest(z.flatten().numpy(), stats.truncnorm(-threshold, threshold).cdf).pvalue > 0.01


def test_the_demos_scale_a_normal_cut_at_two(generator):
    z = drawn("scaled-truncated-normal", generator, 0.4)
    assert stats.kstest(z.flatten().numpy() / 0.4, stats.truncnorm(-2, 2).cdf).pvalue > 0.01
    for senseless in (0.0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="at most 1"):
            drawn("scaled-truncated-normal", generator, senseless)


def test_truncation_keeps_the_coordinates_that_lie_inside():
    plain = NORMAL.draw((1, 100), addressed_rng(0, "test", 1))
    cut = NORMAL.draw((1, 100), addressed_rng(0, "test", 1), 1.0)
    inside = plain.abs() <= 1
    assert torch.equal(plain[inside], cut[inside])
    assert 0 < inside.sum() < 100


@pytest.mark.parametrize("name", get_args(LatentName))
def test_every_prior_is_truncated_or_says_that_it_has_no_tails(name, generator):
    if name in TAILLESS:
        with pytest.raises(ConfigError, match="no tails"):
            drawn(name, generator, 0.5)
    else:
        assert drawn(name, generator, 0.5)[:, :50].abs().max() <= 1.0  # the demos' t scales a cut at 2
        assert drawn(name, generator)[:, :50].abs().max() > 1.5


TRUNCATIONS = [(name, None) for name in get_args(LatentName)]
TRUNCATIONS += [(name, t) for name in get_args(LatentName) if name not in TAILLESS for t in (1.0, 0.5, 0.04)]


@pytest.mark.parametrize(("name", "truncation"), [*TRUNCATIONS, ("normal", 3.0), ("normal", 0.2), ("varied-normal", 2.0)])
def test_rows_drawn_together_are_those_drawn_alone(name, truncation):
    """To the bit, for latents above and below the size from which torch draws numbers together."""
    prior, pool = LatentConfig(distribution=name).build(), []
    for latent_dim, rows in ((1, 3), (9, 5), (16, 4), (31, 3), (100, 6), (128, 1), (128, 70)):
        if truncation == 0.04:
            rows = min(rows, 6)
        seed = latent_dim + rows
        alone = [prior.draw((1, latent_dim), addressed_rng(seed, "sample", k), truncation) for k in range(rows)]
        together = prior.draw_rows(latent_dim, addressed_rngs(seed, "sample", range(rows), pool), truncation)
        assert torch.equal(together, torch.cat(alone)), (latent_dim, rows)


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1e-6, float("nan")])
def test_senseless_truncation(threshold, generator):
    with pytest.raises(ConfigError, match=r"at least 0\.001"):
        drawn("normal", generator, threshold)


def test_a_truncation_that_would_never_end_is_refused(generator):
    message = r"^the truncation is 0\.0001 standard deviations of the latents, but must be at least 0\.001: use a larger"
    with pytest.raises(ConfigError, match=message):
        drawn("annealed-normal", generator, 0.01, sigma=(1.0, 1e4))
    with pytest.raises(ConfigError, match=message.replace(r"0\.0001", r"\S+")):
        drawn("varied-normal", generator, 0.001, sigma=(1e3, 1e6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": (1.0, 2.0)}, "has none"),
        ({"distribution": "varied-normal", "sigma": (2.0, 1.0)}, "least must come first"),
        ({"distribution": "annealed-normal", "sigma": (2.0, 0.0)}, "at least 1e-06"),
        ({"distribution": "annealed-normal", "annealing_steps": 0}, "at least 1"),
    ],
)
def test_senseless_settings(options, message):
    with pytest.raises(ConfigError, match=message):
        LatentConfig(**options).check()


def test_labels_are_uniform(generator):
    counts = torch.bincount(draw_labels(100_000, 10, generator), minlength=10)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_addresses():
    first = torch.rand(3, generator=addressed_rng(0, "a", 1))
    assert torch.equal(first, torch.rand(3, generator=addressed_rng(0, "a", 1)))
    for other in ((1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a", 1, 0)):
        assert not torch.equal(first, torch.rand(3, generator=addressed_rng(*other)))


def test_generators_of_a_pool_are_those_of_their_addresses():
    pool = []
    for positions in ((3, 5), range(4), (-1,)):
        for rng, position in zip(addressed_rngs(7, "b/c", positions, pool), positions, strict=True):
            assert torch.equal(torch.rand(3, generator=rng), torch.rand(3, generator=addressed_rng(7, "b/c", position)))
    assert len(pool) == 4


def test_networks_are_seeded_by_address():
    seed_torch(0, "turn", 3)
    first = torch.rand(3)
    torch.rand(5)
    seed_torch(0, "turn", 3)
    assert torch.equal(first, torch.rand(3))
    seed_torch(0, "turn", 4)
    assert not torch.equal(first, torch.rand(3))
