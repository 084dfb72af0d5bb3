"""Whatever the files of a run hold, reading them ends in sound values or in a UserError of one line."""

import json
import logging

import pytest
import torch
from conftest import tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st

from biggan.checkpoints.run_dir import RunDir, read_run_logs
from biggan.configs.json_io import from_json, to_json
from biggan.configs.run import RunConfig
from biggan.runtime.errors import UserError
from biggan.runtime.json_text import parse_json
from biggan.runtime.metric_logger import is_metrics, is_step, read_log

FEW = settings(derandomize=True, max_examples=150, deadline=None, database=None)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["step", "bytes", "sha256", "counters", "format", "other"])

LINES = st.dictionaries(st.sampled_from(["step", "G/loss", "class/a"]), VALUES)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with two checkpoints."""
    logging.getLogger("biggan").setLevel(logging.ERROR)
    folder = RunDir(tmp_path_factory.mktemp("fuzz") / "run")
    folder.claim(tiny_config())
    for step in (1, 2):
        folder.save(step, {"a": torch.arange(10.0)}, {"seconds": 1.0 * step}, keep=2)
    yield folder
    logging.getLogger("biggan").setLevel(logging.NOTSET)


def one_line(action):
    """The value, or None where a UserError of one short line came out; nothing else may."""
    try:
        return action()
    except UserError as error:
        check_message(error)
        return None


def check_message(error):
    assert len(str(error).splitlines()) == 1
    assert len(str(error)) < 1500


@FEW
@given(st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_as_json(data):
    try:
        assert isinstance(parse_json(data), dict)
    except ValueError as error:
        check_message(error)


@FEW
@given(st.lists(st.binary(max_size=60) | LINES, max_size=6))
def test_logs(run, lines):
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    run.stats_file.write_bytes(b"\n".join(texts) + b"\n")
    found = read_log(run.stats_file)
    assert all(is_step(line["step"]) and is_metrics(line) for line in found)
    assert len(found) <= sum(text.count(b"\n") + 1 for text in texts)
    assert read_run_logs(run.path) == found


@FEW
@given(st.dictionaries(NAMES, VALUES, max_size=4), st.sets(NAMES, max_size=2))
def test_changed_manifests(run, changes, removed):
    """A newest checkpoint is what was written, or the one before it is used."""
    file = run.checkpoints / "step-00000002" / "manifest.json"
    whole = file.read_text()
    manifest = {name: value for name, value in (json.loads(whole) | changes).items() if name not in removed}
    try:
        file.write_text(json.dumps(manifest))
        newest = run.load_newest(set_aside=False)
    finally:
        file.write_text(whole)
    is_same = manifest == json.loads(whole)
    assert (newest.step, newest.counters) == ((2, {"seconds": 2.0}) if is_same else (1, {"seconds": 1.0}))


@FEW
@given(st.integers(0), st.binary(min_size=1, max_size=8))
def test_damaged_manifests(run, place, noise):
    file = run.checkpoints / "step-00000002" / "manifest.json"
    whole = file.read_bytes()
    start = place % len(whole)
    try:
        file.write_bytes(whole[:start] + noise + whole[start + len(noise) :])
        newest = run.load_newest(set_aside=False)
    finally:
        file.write_bytes(whole)
    assert (newest.step, newest.counters["seconds"]) in ((2, 2.0), (1, 1.0))


def flat(value, path=()):
    """The paths of all values in a nest of dictionaries."""
    yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from flat(inner, (*path, name))


@settings(FEW, max_examples=50)
@given(st.data())
def test_changed_configs(run, data):
    """A config with a value of another type is refused, never taken for another."""
    config = json.loads(to_json(tiny_config()))
    path = data.draw(st.sampled_from([path for path in flat(config) if path]))
    part = config
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = data.draw(VALUES)
    text = json.dumps(config)
    read = one_line(lambda: from_json(text, RunConfig, run.config_file))
    if read is not None and one_line(lambda: read.check() or True):
        assert to_json(one_line(lambda: from_json(to_json(read), RunConfig, run.config_file))) == to_json(read)


@settings(FEW, max_examples=60)
@given(st.binary(max_size=100), st.sampled_from(["config.json", "rollbacks.json", "best/best.json", "alarms.jsonl"]))
def test_any_bytes_in_a_small_file(run, data, name):
    file = run.path / name
    whole = file.read_bytes() if file.exists() else None
    file.parent.mkdir(exist_ok=True)
    try:
        file.write_bytes(data)
        for action in (run.read_config, run.load_rollbacks, run.best, run.last_alarm_step):
            one_line(action)
    finally:
        file.unlink() if whole is None else file.write_bytes(whole)
