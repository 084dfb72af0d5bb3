"""The arithmetic of the benchmark: FLOP and bytes against counts by hand, settings by name."""

import dataclasses

import pytest
from conftest import call, tiny_config
from torch.utils.flop_counter import FlopCounterMode

from biggan.configs.overrides import apply_overrides, replace_fields
from biggan.configs.presets import preset
from biggan.data.dataset import DataConfig
from biggan.metrics.evaluate import EvalConfig
from biggan.profiling.benchmark import BenchmarkArm, bench_data, bench_evaluate, bench_sample, bench_train
from biggan.runtime.errors import ConfigError
from biggan.training.flops import footprint
from biggan.training.step import train_step


def ready(**train):
    config = tiny_config(**train)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=10))


def test_flop_per_step_is_what_a_real_step_does():
    arm = BenchmarkArm(ready())
    arm.state.generator.regularizers = ()
    with FlopCounterMode(display=False) as counter:
        train_step(arm.state, 1, arm.reals)
    assert footprint(arm.config).flop_per_step == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_recomputing_is_no_other_arithmetic():
    assert footprint(ready(activation_checkpointing=True)) == footprint(ready())


def test_settings_by_name():
    config = apply_overrides(ready(), ["train.precision=bf16", "train.micro-batch=4", "train.generator_lr=0.5"])
    assert (config.train.precision, config.train.micro_batch, config.train.generator_lr) == ("bf16", 4, 0.5)
    for setting, message in (("train.bach=3", "did you mean"), ("train.batch=x", "integer"), ("train.precision=x", "fp32")):
        with pytest.raises(ConfigError, match=message):
            apply_overrides(ready(), [setting])


def test_the_two_ways_to_sample_give_a_ratio():
    text = bench_sample(ready(), batch=2, rounds=1, seconds=0.05)
    assert [line.split()[0] for line in text.splitlines()] == ["cpu,", "frozen,", "as", "ratio"]


def test_reading_a_data_set_is_timed():
    config = dataclasses.replace(ready(), data=DataConfig(source="embedded:digits"))
    text = bench_data(config, seconds=0.05)
    assert text.startswith("1797 images at 32 px")
    assert all(word in text for word in ("first start", "second start", "streaming"))


def test_two_settings_give_a_ratio():
    text = bench_train({"a": ready(), "b": ready(memory_format="contiguous")}, rounds=1, seconds=0.1)
    assert "images/s" in text
    assert "ratio" in text


def test_extracting_is_timed_in_both_arithmetics(small):
    config = dataclasses.replace(ready(), eval=EvalConfig(extractor=f"module:{small}"))
    text = bench_evaluate(config, batch=4, rounds=1, seconds=0.05)
    assert [line.split()[0] for line in text.splitlines()] == [f"module:{small}", "bf16", "float32", "ratio"]


def test_the_commands(capsys):
    """From the words to the last line, for a run with all three streams of images."""
    short = ("--rounds", 1, "--seconds", 0.05, "--train.device", "cpu")
    for what, word in (("train", "peak memory"), ("sample", "ratio")):
        code, out, err = call(capsys, "bench", what, "improved-mnist", *short)
        assert code == 0, err
        assert word in out


def test_labeled_images_are_part_of_the_step_that_is_timed():
    """The FLOP of a semi-supervised step are counted, and made."""
    arm = BenchmarkArm(
        replace_fields(preset("improved-mnist"), {"model.num_classes": 10, "train.device": "cpu", "train.batch": 20})
    )
    with FlopCounterMode(display=False) as counter:
        train_step(arm.state, 1, arm.reals, arm.labeled)
    assert footprint(arm.config).flop_per_step == pytest.approx(counter.get_total_flops(), rel=0.2)
