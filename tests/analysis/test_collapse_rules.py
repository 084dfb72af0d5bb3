"""Detectors on made-up runs of which the course is known: what each rule must see, and must not."""

import itertools
import math

import pytest
import torch

from biggan.analysis.collapse_rules import Alarm, find_alarms
from biggan.analysis.spectra import sample_diversity
from biggan.configs.monitor import MonitorConfig
from biggan.runtime.errors import ConfigError

CONFIG = MonitorConfig()


def lines(steps=range(50, 4001, 50), **courses):
    """A log: each quantity as a function of the step."""
    return [{"step": step} | {name: course(step) for name, course in courses.items()} for step in steps]


def healthy(step):
    """Everything that is logged, as healthy runs have it."""
    wave = math.sin(step / 30)
    return {
        "sigma0/generator/linear.weight": 1 + 0.02 * step**0.8 + 0.1 * wave,
        "sigma0/discriminator/head.linear.weight": 1 + step / 300 + wave,
        "D/loss_real": 0.8 + 0.1 * wave,
        "D/loss_fake": 0.8 - 0.1 * wave,
        "D/acc_real": 0.75 + 0.05 * wave,
        "diversity": 0.6 + 0.05 * wave,
        "diversity_within_class": 0.5 - 0.05 * wave,
        "accuracy": 1 - math.exp(-step / 2000),
        "frechet_distance": 40 + 200 * math.exp(-step / 800) + 3 * wave,
    }


def run_with(**courses):
    return [{"step": step} | healthy(step) | {n: c(step) for n, c in courses.items()} for step in range(50, 4001, 50)]


def test_a_healthy_run_raises_no_alarm():
    assert find_alarms(run_with(), CONFIG) == []


@pytest.mark.parametrize(
    ("rule", "courses"),
    [
        ("sigma0 explodes", {"sigma0/generator/linear.weight": lambda s: 3 + math.exp((s - 3000) / 150)}),
        (
            "D's loss jumps from near zero",
            {
                "D/loss_real": lambda s: 0.8 if s < 1000 else 0.01 if s < 3000 else 1.5,
                "D/loss_fake": lambda s: 0.8 if s < 1000 else 0.01,
            },
        ),
        ("D turns against real images", {"D/acc_real": lambda s: 0.8 if s < 3000 else 0.1}),
        (
            "samples of a class become alike",
            {"diversity_within_class": lambda s: 0.5 if s < 3000 else 0.5 * 0.99 ** (s - 3000)},
        ),
        ("samples become alike", {"diversity": lambda s: 0.5 if s < 3000 else 0.1}),
        ("classes are lost", {"accuracy": lambda s: 0.6 if s < 3000 else 0.3}),
        ("fixed samples are no longer recognized", {"conditional_accuracy": lambda s: 0.7 if s < 3000 else 0.2}),
        ("the samples get worse", {"frechet_distance": lambda s: 50.0 if s < 3000 else 50 + (s - 3000) / 10}),
        ("the samples get worse", {"inception_score": lambda s: 5.0 if s < 3000 else 2.0}),
    ],
)
def test_each_rule_sees_its_collapse(rule, courses):
    alarms = find_alarms(run_with(**courses), CONFIG)
    assert {alarm.rule for alarm in alarms} == {rule}
    first = alarms[0]
    assert 3000 <= first.step <= 3500
    assert 1000 <= first.healthy <= 3050, "a checkpoint from before it is named"


def test_a_loss_that_explodes_or_is_not_finite():
    (alarm, *_) = find_alarms(run_with(**{"D/loss_fake": lambda s: 0.8 if s < 3000 else 350.0}), CONFIG)
    assert (alarm.rule, alarm.step <= 3100) == ("D's loss explodes", True)
    (alarm, *_) = find_alarms(run_with(diversity=lambda s: 0.5 if s < 3000 else math.nan), CONFIG)
    assert (alarm.rule, alarm.step, alarm.evidence) == ("a number is not finite", 3000, "diversity")


def test_a_loss_without_a_floor_is_not_near_zero():
    wasserstein = {"D/loss_real": lambda s: -6.3 + s / 2000, "D/loss_fake": lambda s: -0.3}
    assert find_alarms(run_with(**wasserstein), CONFIG) == []


def test_a_rule_does_not_repeat_itself():
    log = run_with(frechet_distance=lambda s: 50.0 if s < 1000 else 200.0)
    assert [alarm.step for alarm in find_alarms(log, CONFIG)] == [1000, 1350, 1800, 2400, 3200]


def test_nothing_is_said_of_the_first_steps():
    log = lines(range(10, 200, 10), frechet_distance=lambda s: s**2, diversity=lambda s: 1 / s)
    assert find_alarms(log, CONFIG) == []


def test_old_logs_in_any_order_and_without_some_quantities():
    log = lines(**{"D/loss_real": lambda s: 0.8}, frechet_distance=lambda s: 50.0 if s < 3000 else 100.0)
    assert (
        find_alarms(reversed(log), CONFIG)
        == find_alarms(log, CONFIG)
        == [
            Alarm("the samples get worse", 3000, "frechet_distance 50 at step 2950, 100 now", 2950),
            Alarm("the samples get worse", 4000, "frechet_distance 50 at step 2950, 100 now", 2950),
        ]
    )


def test_spread_against_loops(generator):
    images = torch.rand(6, 3, 4, 4, generator=generator) * 2 - 1
    distance = lambda a, b: (a - b).square().mean().sqrt().item()  # noqa: E731
    pairs = list(itertools.combinations(range(6), 2))
    found = sample_diversity(images, 3)
    assert found["diversity"] == pytest.approx(sum(distance(images[i], images[j]) for i, j in pairs) / len(pairs), rel=1e-5)
    same = [(i, j) for i, j in pairs if i // 3 == j // 3]
    assert found["diversity_within_class"] == pytest.approx(
        sum(distance(images[i], images[j]) for i, j in same) / 6, rel=1e-5
    )
    assert sample_diversity(images[:1].repeat(4, 1, 1, 1), 2) == pytest.approx(
        {"diversity": 0, "diversity_within_class": 0}, abs=1e-6
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"every": 0}, "at least 1"), ({"metric_factor": 1.0}, "above 1"), ({"max_rollbacks": -1}, "at least 0")],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        MonitorConfig(**settings).check()
