"""What a run takes over from the config of another, which may be somebody else's."""

import dataclasses
import json
import typing
from pathlib import Path

import pytest
from conftest import call, tiny_config

from biggan.checkpoints.init_from import read_run_config
from biggan.checkpoints.run_dir import RunDir
from biggan.cli.train import start_from
from biggan.configs.json_io import to_json
from biggan.configs.overrides import flatten, replace_fields
from biggan.configs.presets import preset
from biggan.configs.run import PLACES, RunConfig
from biggan.runtime.errors import CheckpointError

HARMLESS = {
    "data.classes",  # chooses among what the source has
    "data.labels",  # chooses among the label files and columns in the source
    "data.background",
    "eval.recipe",
    "dataset.class_names",
    "dataset.content_hash",
    "dataset.name",  # shown, never opened
    "objective.feature_layer",
    "regularization.discriminator.sigma_layers",
    "regularization.generator.sigma_layers",
}


def leaves(kind: type, prefix: str = "") -> typing.Iterator[tuple[str, set[object]]]:
    """Every field by its dotted name, with all types that its annotation is made of."""
    for name, hint in typing.get_type_hints(kind).items():
        parts = set(parts_of(hint))
        inner = [part for part in parts if dataclasses.is_dataclass(part)]
        for part in inner:
            yield from leaves(part, f"{prefix}{name}.")
        if not inner:
            yield prefix + name, parts


def parts_of(hint: object) -> typing.Iterator[object]:
    """The plain types in an annotation; of a Literal none, because its values are known."""
    if typing.get_origin(hint) is typing.Literal:
        return
    arguments = typing.get_args(hint)
    if not arguments:
        yield hint
    for argument in arguments:
        yield from parts_of(argument)


def test_every_text_in_a_config_is_known_to_name_a_place_or_not():
    """A new field of text or of a path goes into config.PLACES, or, where it can name none, into HARMLESS here."""
    texts = {name for name, parts in leaves(RunConfig) if parts & {str, Path, bytes, object, typing.Any}}
    assert texts == PLACES | HARMLESS
    assert not PLACES & HARMLESS


PLANTED = {
    "preset": "../elsewhere",
    "data.source": "wds:pipe:touch {0}/planted",
    "data.cache": Path("planted"),
    "eval.extractor": "module:{0}/planted.pt",
    "eval.extractor_weights": Path("planted"),
    "monitor.held_out": "wds:pipe:touch {0}/planted",
    "classify.test_data": "wds:pipe:touch {0}/planted",
    "init_from": "planted",
}


def plant(folder: Path, config: RunConfig) -> RunConfig:
    """The config of a run that somebody else made."""
    values = {name: value.format(folder) if isinstance(value, str) else value for name, value in PLANTED.items()}
    return replace_fields(config, values)


def test_no_place_comes_from_a_stored_config(tmp_path):
    assert set(PLANTED) == PLACES
    RunDir(tmp_path / "run").claim(plant(tmp_path, tiny_config(batch=24, generator_lr=3e-4)))
    own = preset("cifar10")
    found = start_from(own, f"{tmp_path / 'run'}@2")
    assert (found.train.batch, found.train.generator_lr) == (24, 3e-4), "numbers are those of the run"
    for base, config in ((own, found), (RunConfig(), read_run_config(tmp_path / "run"))):
        assert {name: flatten(config)[name] for name in PLACES} == {name: flatten(base)[name] for name in PLACES}


def test_starting_from_a_run_of_somebody_else(capsys, tmp_path):
    words = ["--train.steps", 2, "--train.checkpoint-every", 1, "--train.batch", 8, "--monitor.every", "None"]
    words += ["--model.width", 2, "--model.embedding-dim", 8, "--train.standing-stats-batches", 1]
    assert call(capsys, "train", "digits", "--run", tmp_path / "run", *words)[0] == 0
    file = tmp_path / "run" / "config.json"
    stored = json.loads(file.read_text())
    planted = json.loads(to_json(plant(tmp_path, tiny_config())))
    stored |= {"data": planted["data"], "eval": planted["eval"] | {"every": 1}, "monitor": planted["monitor"]}
    file.write_text(json.dumps(stored))
    start = ["--init-from", f"{tmp_path / 'run'}@1", "--train.steps", 1]
    code, _, err = call(capsys, "train", "cifar10", "--run", tmp_path / "none", *start)
    assert (code, "needs images: add --data" in err) == (2, True)
    assert "not taken over, since they name files, programs or places: data.cache, data.source, eval.extractor," in err
    code, _, err = call(capsys, "train", "digits", "--run", tmp_path / "next", *start, "--eval.every", "None")
    assert code == 0, err
    assert json.loads((tmp_path / "next" / "config.json").read_text())["data"]["source"] == "embedded:digits"
    for verb in (["sample", tmp_path / "run", "--n", 1, "--out", tmp_path / "drawn"], ["analyze", tmp_path / "run"]):
        assert call(capsys, *verb)[0] == 0
    assert not (tmp_path / "planted").exists()


def test_a_run_whose_command_named_a_pipe_is_resumed_by_the_same_command(tmp_path):
    """Its config.json is only compared with the command line."""
    config = replace_fields(tiny_config(), {"data.source": "wds:pipe:cat one.tar"})
    folder = RunDir(tmp_path / "run")
    folder.claim(config)
    folder.save(1, {}, {"seconds": 0.0}, keep=1)
    folder.claim(config)
    with pytest.raises(CheckpointError, match=r"train.batch: 8 there, 16 here"):
        folder.claim(replace_fields(config, {"train.batch": 16}))
