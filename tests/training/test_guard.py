"""Gradients that are not finite: no weight is touched, the name is known, a run may go back and carry on."""

import dataclasses
import json

import pytest
import torch
from conftest import tiny_config
from test_resume import train
from test_step import pieces, real_batch, tiny_state

from biggan.runtime.errors import TrainingDiverged
from biggan.training import trainer
from biggan.training.step import train_step


def weights(player):
    return [p.detach().clone() for p in player.network.parameters()]


def same(player, before):
    return all(map(torch.equal, player.network.parameters(), before))


def poison(state, name="blocks.1.conv_2.bias"):
    """From now on this gradient of the generator is not a number."""
    return state.generator.network.get_parameter(name).register_hook(lambda gradient: gradient * float("nan"))


def test_no_weight_is_touched_from_the_bad_step_on(generator):
    state = tiny_state(tiny_config(discriminator_steps=1))
    images = [pieces(*real_batch(8, generator)) for _ in range(4)]
    train_step(state, 1, images[0])
    assert state.guard.first_bad() is None
    before = weights(state.generator)
    hook = poison(state)
    train_step(state, 2, images[1])
    assert same(state.generator, before)
    hook.remove()
    d_before = weights(state.discriminator)
    for step in (3, 4):
        train_step(state, step, images[step - 1])
    assert same(state.generator, before)
    assert same(state.discriminator, d_before), "the other player stands still too"
    assert state.guard.first_bad() == (2, "gradient of generator/blocks.1.conv_2.bias")


def test_a_run_ends_with_the_name_and_what_was_good_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "train_step", poisoned(times=99))
    with pytest.raises(TrainingDiverged, match=r"step 3: gradient of generator/blocks.1.conv_2.bias .*step-00000002"):
        train(tiny_config(steps=6, checkpoint_every=2, log_every=2), tmp_path / "run")
    steps = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert steps == ["step-00000002"]


def poisoned(times):
    """train_step, with a bad gradient in step 3, that many times."""
    left = [times]

    def step_with_poison(state, step, *reals):
        hook = poison(state) if step == 3 and left[0] > 0 else None
        left[0] -= hook is not None
        scalars = train_step(state, step, *reals)
        if hook is not None:
            hook.remove()
        return scalars

    return step_with_poison


def rolling(**options):
    config = tiny_config(steps=6, checkpoint_every=2, log_every=1, **options)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, on_divergence="roll-back"))


def test_rolling_back_and_carrying_on(tmp_path, monkeypatch, notes):
    monkeypatch.setattr(trainer, "train_step", poisoned(times=2))
    folder = train(rolling(), tmp_path / "run")
    returns = [note for note in notes if "rollback " in note]
    assert ["learning rates x 0.5" in returns[0], "learning rates x 0.25" in returns[1], len(returns)] == [True, True, 2]
    manifest = json.loads((folder.list_checkpoints()[-1] / "manifest.json").read_text())
    assert (manifest["step"], folder.load_rollbacks()["diverged"]) == (6, 2)
    steps = [json.loads(line)["step"] for line in folder.stats_file.read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_rolling_back_is_bounded(tmp_path, monkeypatch, notes):
    monkeypatch.setattr(trainer, "train_step", poisoned(times=99))
    with pytest.raises(TrainingDiverged):
        train(rolling(max_rollbacks=2), tmp_path / "run")
    assert sum("rollback " in note for note in notes) == 2


def test_rates_after_a_return_are_those_of_a_resumed_run(tmp_path, monkeypatch):
    """The number of returns is in the checkpoint: a run killed afterwards carries on at the lowered rates."""
    monkeypatch.setattr(trainer, "train_step", poisoned(times=1))
    folder = train(rolling(), tmp_path / "run")
    seen = []

    def listening(state, step, *reals):
        seen.append(state.generator.learning_rate.base)
        return train_step(state, step, *reals)

    monkeypatch.setattr(trainer, "train_step", listening)
    config = rolling()
    train(dataclasses.replace(config, train=dataclasses.replace(config.train, steps=7)), folder.path)
    assert seen == [config.train.generator_lr / 2]
