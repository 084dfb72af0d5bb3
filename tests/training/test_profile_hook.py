"""--train.profile: what is recorded, and that the steps are what they would have been without it."""

import gzip
import json

from conftest import tiny_config
from test_resume import assert_same, final_tensors, train


def test_the_steps_after_the_warm_up_are_recorded_and_unchanged(tmp_path, notes):
    plain = train(tiny_config(steps=8), tmp_path / "plain")
    folder = train(tiny_config(steps=8, profile=2), tmp_path / "run")
    assert "steps 6 to 7 were profiled" in "\n".join(notes)
    assert sorted(path.name for path in (folder.path / "profile").iterdir()) == [
        "step-00000007.json.gz",
        "step-00000007.txt",
    ]
    trace = json.loads(gzip.decompress((folder.path / "profile" / "step-00000007.json.gz").read_bytes()))
    updates = [event for event in trace["traceEvents"] if event.get("name", "").startswith("Optimizer.step#Adam.step")]
    assert len(updates) == 2 * 3, "of two steps, each with two of the discriminator and one of the generator"
    assert "convolution" in (folder.path / "profile" / "step-00000007.txt").read_text()
    assert_same(final_tensors(plain), final_tensors(folder))


def test_a_run_that_is_resumed_with_it_and_ends_early_writes_what_there_is(tmp_path):
    train(tiny_config(steps=1), tmp_path / "run")
    folder = train(tiny_config(steps=7, profile=100), tmp_path / "run")
    assert (folder.path / "profile" / "step-00000007.json.gz").exists()
