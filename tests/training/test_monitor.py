"""Watching while training: what is measured, the policies, freezing, starting from a checkpoint of another run."""

import dataclasses
import itertools
import json

import pytest
import torch
from conftest import call, tiny_config
from test_resume import final_tensors, train
from test_step import pieces, real_batch, tiny_state

from biggan.analysis.collapse_rules import Alarm
from biggan.checkpoints.model_dir import ModelDir
from biggan.checkpoints.run_dir import RunDir, rollback_candidates
from biggan.checkpoints.tensors import read_checkpoint
from biggan.configs.monitor import MonitorConfig
from biggan.configs.overrides import replace_fields
from biggan.objectives.regularizer import DiscriminatorPass, PenaltyInputs
from biggan.runtime.metric_logger import read_alarms, read_log
from biggan.runtime.precision import uint8_to_float
from biggan.training import monitor as watching
from biggan.training.rollbacks import Rollbacks
from biggan.training.setup import build_train_state
from biggan.training.step import train_step
from biggan.training.train_state import NETWORKS


def watched(steps=4, **settings):
    """A tiny run that measures at every step."""
    config = tiny_config(steps=steps, checkpoint_every=1, keep_checkpoints=9)
    return dataclasses.replace(config, monitor=MonitorConfig(**{"every": 1, "max_time_fraction": 1000.0} | settings))


def last_alarm_step(monkeypatch, step, times=1, healthy=2):
    """The rules raise an alarm when they are first shown that step, so many times."""
    left = [times]

    def observe(self, line):
        if line["step"] != step or not left[0]:
            return []
        left[0] -= 1
        return [Alarm("a rule", step, "evidence", healthy)]

    monkeypatch.setattr(watching.CollapseDetector, "observe", observe)


def test_watching_changes_no_step(tmp_path):
    one = train(watched(held_out="embedded:digits"), tmp_path / "one")
    other = train(watched(every=None), tmp_path / "other")
    first, second = final_tensors(one), final_tensors(other)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not (tmp_path / "other" / "monitor.jsonl").read_text()
    lines = read_log(tmp_path / "one" / "monitor.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]


def test_what_is_measured_is_what_is_there(tmp_path):
    folder = train(watched(steps=2, held_out="embedded:digits"), tmp_path / "run")
    line, tensors = read_log(tmp_path / "run" / "monitor.jsonl")[-1], read_checkpoint(folder.list_checkpoints()[-1]).tensors
    name = "discriminator/blocks.1.conv_1.weight"
    exact = torch.linalg.svdvals(tensors[name].flatten(1).double())
    assert [line[f"sigma{i}/{name}"] for i in range(3)] == pytest.approx(exact[:3].tolist(), rel=2e-5)
    moment = tensors[name.replace("/", "_optimizer/") + "/exp_avg"]
    assert line[f"moment1/{name}"] == pytest.approx(moment.norm().item(), rel=1e-4)
    assert line[f"grad_norm/{name}"] == pytest.approx(moment.norm().item(), rel=1e-4), "beta 1 is 0"
    table = tensors["generator/embedding.weight"]
    assert line["class_norm/generator/embedding"] == pytest.approx(table.norm(dim=1).tolist(), rel=1e-4)
    assert line["D/acc_train"] == line["D/acc_held_out"], "here they are the same images"
    assert 0 < line["diversity_within_class"] < 2


def test_measuring_waits_until_it_is_worth_its_time(tmp_path):
    train(watched(max_time_fraction=1e-9), tmp_path / "run")
    assert [line["step"] for line in read_log(tmp_path / "run" / "monitor.jsonl")] == [1]


def test_only_warning(tmp_path, monkeypatch, notes):
    last_alarm_step(monkeypatch, 3)
    train(watched(), tmp_path / "run")
    checkpoint = str(tmp_path / "run" / "checkpoints" / "step-00000002")
    assert f"alarm at step 3: a rule (evidence); healthy until step 2, {checkpoint}" in notes
    (alarm,) = read_alarms(tmp_path / "run" / "alarms.jsonl")
    wanted = {"rule": "a rule", "step": 3, "evidence": "evidence", "healthy": 2, "policy": "warn"}
    assert alarm == wanted | {"checkpoint": checkpoint}
    assert read_log(tmp_path / "run" / "stats.jsonl")[-1]["step"] == 4


def test_stopping(tmp_path, monkeypatch, notes):
    last_alarm_step(monkeypatch, 3)
    notes.clear()
    folder = train(watched(on_alarm="stop"), tmp_path / "run")
    assert folder.list_checkpoints()[-1].name == "step-00000003"
    assert any("stopped at step 3" in note for note in notes)
    assert ModelDir(folder.path).card.step == 2, "no scores say which is the best: the model is the last healthy one"
    train(watched(on_alarm="stop"), tmp_path / "run")
    assert "was stopped by an alarm at step 3: --monitor.on-alarm warn goes on" in notes[-1]
    train(watched(), tmp_path / "run")
    assert folder.list_checkpoints()[-1].name == "step-00000004"


def test_rolling_back(tmp_path, monkeypatch, notes):
    """To the last healthy checkpoint, with lower rates and R1, which a resumed run has too; the old log is kept."""
    last_alarm_step(monkeypatch, 4)
    rates = []
    config = watched(steps=5, on_alarm="roll-back", rollback_r1=0.5, rollback_r1_interval=1)

    def listening(state, step, *images):
        scalars = train_step(state, step, *images)
        rates.append((step, state.generator.learning_rate.base / config.train.generator_lr, "D/r1" in scalars))
        return scalars

    monkeypatch.setattr("biggan.training.trainer.train_step", listening)
    folder = train(config, tmp_path / "run")
    assert rates == [(s, 1.0, False) for s in (1, 2, 3, 4)] + [(s, 0.5, True) for s in (3, 4, 5)]
    (note,) = [note for note in notes if "rollback " in note]
    assert "step-00000002, learning rates x 0.5, R1 with gamma 0.5 every 1 steps" in note
    assert [line["step"] for line in read_log(folder.stats_file)] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in read_log(folder.path / "rollback-1" / "stats.jsonl")] == [1, 2, 3, 4]
    train(dataclasses.replace(config, train=dataclasses.replace(config.train, steps=6)), tmp_path / "run")
    assert rates[-1] == (6, 0.5, True)


def test_a_run_killed_after_a_return_remembers_it(tmp_path, monkeypatch, notes):
    """Before it wrote a checkpoint: the remedy and the count are those of the run that was not killed."""
    last_alarm_step(monkeypatch, 4, times=99)
    config, rates, kill = watched(on_alarm="roll-back", max_rollbacks=1), [], [True]

    def killed(state, step, *images):
        rates.append((step, state.generator.learning_rate.base / config.train.generator_lr))
        if kill and len(rates) == 5:  # the first step after the return
            kill.pop()
            raise KeyboardInterrupt
        return train_step(state, step, *images)

    monkeypatch.setattr("biggan.training.trainer.train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run")
    notes.clear()
    train(config, tmp_path / "run")
    assert rates == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0), (3, 0.5), (3, 0.5), (4, 0.5)]
    assert not any("rollback " in note for note in notes), "one was allowed, and made"


def test_the_r1_of_a_run_and_that_of_a_remedy_add_up(generator):
    state = tiny_state(replace_fields(tiny_config(), {"regularization.discriminator.r1": 2.0}))
    images, labels = real_batch(8, generator)
    state.discriminator.network.eval()
    x = uint8_to_float(images, torch.contiguous_format)
    real = DiscriminatorPass(x, labels, state.discriminator.network(x, labels))
    inputs = PenaltyInputs(real=real)
    state.discriminator.begin(1)
    alone = state.discriminator.penalties(inputs, 1)["r1"].item()
    remedy = Rollbacks(collapsed=1).penalties(watched(rollback_r1=1.0, rollback_r1_interval=1))
    state.discriminator.regularizers += remedy
    state.discriminator.begin(1)
    assert state.discriminator.penalties(inputs, 1)["r1"].item() == pytest.approx(1.5 * alone)


def test_the_past_of_a_run_is_that_of_the_run_it_starts_from(tmp_path):
    """D's loss of 2 for 3,000 steps, then, in a run from there, 50: an alarm though that run is young."""
    parent = RunDir(tmp_path / "parent")
    (parent.checkpoints / "step-00003000").mkdir(parents=True)
    (parent.checkpoints / "step-00003000" / "manifest.json").write_text("{}")
    lines = [{"step": step, "D/loss_real": 2.0} for step in range(100, 3501, 100)]
    parent.stats_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = dataclasses.replace(watched(every=None), init_from=str(parent.path))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=10))
    folder = RunDir(tmp_path / "run")
    folder.path.mkdir()
    monitor = watching.CollapseMonitor(config, build_train_state(config), None, folder, 0, None)
    for step in range(10, 60, 10):
        monitor.observe(step, {"D/loss_real": 50.0})
    (alarm,) = monitor.alarms
    assert (alarm.rule, alarm.step, alarm.healthy) == ("D's loss explodes", 30, 2200 - 3000)


def test_rolling_back_is_bounded(tmp_path, monkeypatch, notes):
    last_alarm_step(monkeypatch, 4, times=99)
    train(watched(on_alarm="roll-back", max_rollbacks=2), tmp_path / "run")
    assert sum("rollback " in note for note in notes) == 2
    assert sum("alarm at step 4" in note for note in notes) == 6, "after that it only warns; two logs have that step"


def test_checkpoints_to_return_to():
    kept = list(range(100, 1100, 100))
    for last in range(1100, 10_000, 100):
        kept = [step for step in (*kept, last) if step in rollback_candidates([*kept, last])]
        back = [step for step in kept if step <= 0.6 * last]
        assert back, "one from before the last third is there"
        assert len(kept) < 9
        assert max(b / a for a, b in itertools.pairwise(kept) if a > last / 2) < 1.45


@pytest.mark.parametrize("frozen", ["generator", "discriminator"])
def test_rate_0_freezes(frozen, generator):
    state = tiny_state(
        replace_fields(
            tiny_config(),
            {
                f"train.{frozen}_lr": 0.0,
                "regularization.discriminator.sigma_clamp": True,
                "regularization.discriminator.sigma_bound": 0.5,
            },
        )
    )
    players = {player.name: player for player in (state.generator, state.discriminator)}
    before = {name: [p.detach().clone() for p in player.network.parameters()] for name, player in players.items()}
    train_step(state, 1, pieces(*real_batch(16, generator)))
    same = {name: all(map(torch.equal, player.network.parameters(), before[name])) for name, player in players.items()}
    assert same == {name: name == frozen for name in players}


def test_starting_from_a_checkpoint_of_another_run(capsys, tmp_path):
    config = tiny_config(steps=4, checkpoint_every=1, keep_checkpoints=9)
    first = train(config, tmp_path / "first")
    there = {int(path.name[-8:]): read_checkpoint(path).tensors for path in first.list_checkpoints()}
    moved = {"steps": 1, "checkpoint_every": 1, "generator_lr": 0.0}
    for moments in ("keep", "reset"):
        other = dataclasses.replace(tiny_config(**moved, optimizer_state=moments), init_from=f"{tmp_path / 'first'}@2")
        tensors = final_tensors(train(other, tmp_path / moments))
        name = "generator/blocks.0.conv_1.weight"
        assert torch.equal(tensors[name], there[2][name]), "frozen at step 2"
        name = "discriminator_optimizer/blocks.0.conv_1.weight/step"
        assert tensors[name].item() == {"keep": there[2][name].item() + 2, "reset": 2}[moments]
    onwards = dataclasses.replace(tiny_config(steps=1, optimizer_state="keep"), init_from=str(tmp_path / "reset"))
    tensors = final_tensors(train(onwards, tmp_path / "onwards"))
    steps = {player: tensors[f"{player}_optimizer/blocks.0.conv_1.weight/step"].item() for player in NETWORKS}
    assert steps == {"generator": 1, "discriminator": 4}, "G had never moved, so it has no moments to keep"
    words = ["train", "digits", "--run", tmp_path / "none", "--init-from", f"{tmp_path / 'first'}@7", "--train.steps", 1]
    code, _, err = call(capsys, *words)
    assert (code, "no checkpoint of step 7 (there are: 1, 2, 3, 4)" in err) == (2, True)
    words = ["train", "digits", "--run", tmp_path / "model", "--init-from", tmp_path / "first" / "model"]
    code, _, err = call(capsys, *words, "--train.steps", 1, "--train.optimizer-state", "keep")
    assert (code, "use --train.optimizer-state reset" in err) == (2, True)


def test_divergence_is_an_alarm_too(tmp_path):
    from biggan.runtime.errors import TrainingDiverged

    config = replace_fields(tiny_config(steps=50), {"train.generator_lr": 1e30, "train.discriminator_lr": 1e30})
    with pytest.raises(TrainingDiverged):
        train(config, tmp_path / "run")
    last = json.loads((tmp_path / "run" / "alarms.jsonl").read_text().splitlines()[-1])
    assert (last["rule"], last["policy"]) == ("not finite", "stop")


def test_a_classifier_of_these_classes_names_the_fixed_batch(capsys, small, tmp_path):
    """The evaluation's extractor here has three logits: for three classes it is asked, for ten it is not."""
    words = [
        "train",
        "digits",
        "--train.steps",
        1,
        "--train.batch",
        8,
        "--train.standing-stats-batches",
        2,
        "--model.width",
        2,
    ]
    words += ["--train.device", "cpu", "--train.precision", "fp32", "--monitor.every", 1, "--eval.every", 1]
    words += ["--eval.extractor", f"module:{small}", "--eval.recipe", "fid20", "--eval.reference-images", 30]
    found = {}
    for name, classes in (("three", ["--data.classes", "0", "1", "2"]), ("ten", [])):
        code, _, err = call(capsys, *words, "--run", tmp_path / name, *classes)
        assert code == 0, err
        found[name] = read_log(tmp_path / name / "monitor.jsonl")[0].get("conditional_accuracy")
    assert found["ten"] is None
    assert 0 <= found["three"] <= 1
