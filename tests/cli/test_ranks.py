"""Verbs that torchrun may start as several processes, and those that it may not."""

import contextlib

import pytest
import torch
from conftest import call

from biggan.cli.main import VERBS, WITH_RANKS
from biggan.runtime import distributed
from biggan.runtime.precision import Precision

TINY = ["--model.width", "2", "--model.embedding-dim", "8", "--train.batch", "8", "--train.standing-stats-batches", "2"]
TRAIN = ["train", "digits", *TINY, "--train.steps", "1", "--train.device", "cpu", "--run"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks") / "run"
    from biggan.cli.main import main

    with pytest.raises(SystemExit) as done:
        main([*TRAIN, str(folder)])
    assert not done.value.code
    return folder


COMMANDS = {
    "train": [*TRAIN, "OUT"],
    "sample": ["sample", "RUN", "--n", "4", "--out", "OUT"],
    "evaluate": ["evaluate", "RUN", "--data", "embedded:digits", "--extractor", "module:SMALL", "--recipe", "fid20"],
    "truncation": [
        *("truncation", "RUN", "--data", "embedded:digits", "--extractor", "module:SMALL", "--recipe", "fid20"),
        *("--thresholds", "1", "--out", "OUT"),
    ],
}


@pytest.mark.parametrize("verb", COMMANDS)
def test_nothing_is_placed_on_a_device_before_the_process_group(capsys, run, small, tmp_path, monkeypatch, verb):
    """The process group makes the rank's GPU the current one: what is placed before lands on the first GPU, of all ranks."""
    entered, placed = [], []
    enter, place, move = distributed.process_group, Precision.place, torch.nn.Module.to

    @contextlib.contextmanager
    def watched(device):
        with enter(device) as world:
            entered.append(device)
            yield world

    def placing(self, network):
        placed.append(bool(entered))
        return place(self, network)

    def moving(self, *arguments, **options):
        placed.append(bool(entered))
        return move(self, *arguments, **options)

    monkeypatch.setattr(distributed, "process_group", watched)
    monkeypatch.setattr(Precision, "place", placing)
    monkeypatch.setattr(torch.nn.Module, "to", moving)
    names = {"RUN": str(run), "OUT": str(tmp_path / "out")}
    words = [names.get(word, word.replace("SMALL", str(small))) for word in COMMANDS[verb]]
    code, _, err = call(capsys, *words)
    assert code == 0, err
    assert len(entered) == 1
    assert placed
    assert all(placed)


@pytest.mark.parametrize("verb", sorted(set(VERBS) - set(WITH_RANKS)))
def test_the_other_verbs_work_in_one_process(capsys, monkeypatch, verb):
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    code, out, err = call(capsys, verb, "--help")
    assert (code, out) == (2, "")
    assert f"biggan {verb} works in one process" in err
