"""Does another commit still compute the very same numbers? For changes that must not change any, such as refactorings.

    git worktree add /tmp/old COMMIT
    python recipes/identical_numbers.py /tmp/old [NEW] [--work DIR]

OLD and NEW are two checkouts; NEW is, if not given, the one that this script is in. Both run the same commands with the same
Python on two threads of the CPU, one after the other: short training runs (float32, bf16, with accumulation and many
regularizers, semi-supervised, BigGAN-deep), one that is stopped and resumed, and sampling. NEW also resumes a run of OLD and
samples from a model of OLD. Compared to the bit are all tensors of the last checkpoint and of the model, all logged numbers
but times, and the pixels of the last sheet and of the samples.

Names do not count: tensors are compared as a multiset of (dtype, shape, bytes), the numbers of a step as a multiset of
values; how many were renamed is reported. Options that NEW spells differently belong into RENAMED_OPTIONS.

Prints a line for each comparison and exits with 1 if anything differs. Takes about seven minutes on two idle cores, and with
--work four when it is repeated: the results of OLD are kept there by its commit (unless its src/ has changes).
"""

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from safetensors import deserialize

# Options, and values of options, as RUNS has them: as a newer commit has them. A tree is asked which it accepts.
RENAMED_OPTIONS = {
    "--watch.every": "--monitor.every",
    "--watch.share": "--monitor.max-time-fraction",
    "--watch.held-out": "--monitor.held-out",
    "--regularization.generator.historical-average": "--regularization.generator.historical-averaging",
    "--regularization.generator.gradient-norm": "--regularization.generator.max-grad-norm",
    "--regularization.discriminator.gradient-every": "--regularization.discriminator.r1-interval",
    "colour": "color",
}

STEPS, HALF = 60, 30
# No limit of time, so that a slow machine makes the same steps, checkpoints and measurements.
ALWAYS = "--train.device cpu --train.minutes None --train.checkpoint-minutes None --train.log-every 5"
# No sheet before the last step: a sheet changes the statistics for sampling, which the next checkpoint holds too, and what
# follows it is lost where a run is stopped.
DIGITS = f"digits --train.sample-every {STEPS} --train.checkpoint-every {HALF}"
SHORT = "--data embedded:digits --train.precision fp32 --train.sample-every 5 --train.checkpoint-every 5"
GENERATOR = "--regularization.generator"
DISCRIMINATOR = "--regularization.discriminator"
RUNS = {
    "fp32": f"{DIGITS} --train.precision fp32 --train.steps {STEPS}",
    "bf16": f"{DIGITS} --train.precision bf16 --train.steps {STEPS}",
    "regularized": f"digits {SHORT} --train.steps 12 --train.micro-batch 16 --train.ema-decay 0.9 --data.flip "
    "--watch.every 5 --watch.share 1 --watch.held-out embedded:digits --augment.policy colour translation cutout "
    f"{GENERATOR}.orthogonal 1e-3 {GENERATOR}.sigma-penalty 1e-2 {GENERATOR}.sigma-bound 1 {GENERATOR}.l2 1e-5 "
    f"{GENERATOR}.historical-average 1e-3 {GENERATOR}.gradient-norm 5 "
    f"{DISCRIMINATOR}.orthogonal 1e-4 {DISCRIMINATOR}.orthogonal-form full {DISCRIMINATOR}.r1 0.1 {DISCRIMINATOR}.r2 0.1 "
    f"{DISCRIMINATOR}.gradient-every 2 {DISCRIMINATOR}.lecam 0.1 {DISCRIMINATOR}.consistency 1",
    "semi-supervised": f"improved-mnist {SHORT} --train.steps 20 --data.labels-per-class 10",
    "minibatch": f"improved-cifar10-minibatch {SHORT} --train.steps 4 --train.batch 20 --train.lr-decay-start 2 "
    "--data.labels-per-class 10",
    "deep": f"biggan-deep-128 {SHORT} --train.steps 6 --train.batch 16 --model.resolution 32 --model.width 4 "
    "--train.ema-start 2 --latent.distribution censored-normal",
}
SAMPLE = "--n 16 --seed 3 --truncation 0.7"

TIMES = re.compile("second|time|duration|elapsed")  # in the name of a logged number: not compared


class Failed(Exception):
    """A command did not end well."""


class Entry(NamedTuple):
    """One thing that is compared: `place` (the step of a logged number) and `content` count, `name` does not."""

    place: int
    name: str
    content: str


class Tree:
    """A checkout, and the folder with what it computes."""

    def __init__(self, label: str, path: Path, results: Path) -> None:
        self.label, self.path, self.results = label, path, results
        self.words: dict[str, str] = {}
        self.environment = os.environ | {
            "PYTHONPATH": str(path / "src"),
            "BIGGAN_CACHE": str(results / "cache"),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "2",
            "OMP_WAIT_POLICY": "PASSIVE",  # a thread that waits sleeps: three times as fast where others use the cores too
        }
        (results / "finished").mkdir(parents=True, exist_ok=True)
        where = "import importlib.util; print(importlib.util.find_spec('biggan').origin)"
        found = self.python("-c", where).stdout.strip()
        if Path(found).parent != path / "src" / "biggan":
            sys.exit(f"{label}: {path / 'src' / 'biggan'} was meant, but Python finds {found}")

    def python(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The same interpreter with this tree's code, in a folder where nothing else can be imported."""
        command = [sys.executable, *words]
        return subprocess.run(command, env=self.environment, cwd=self.results, capture_output=True, text=True, check=False)

    def biggan(self, *words: str) -> None:
        """One command, in this tree's spelling. Raises Failed with its last line."""
        command = [self.words.get(word, word) for word in words]
        done = self.python("-m", "biggan", *command)
        if done.returncode != 0:
            last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise Failed(f"{self.label}: biggan {' '.join(command[:2])} ... exited with {done.returncode}: {last}")

    def find_words(self) -> None:
        """Find out by dry runs which of RENAMED_OPTIONS this tree has: the new ones but for those that it complains of."""
        run = f"train {RUNS['regularized']} {ALWAYS}".split()
        self.words = {old: new for old, new in RENAMED_OPTIONS.items() if old in run}
        while True:
            done = self.python("-m", "biggan", *[self.words.get(word, word) for word in run], "--dry-run")
            refused = [old for old, new in self.words.items() if re.search(rf"(?<![\w-]){new}(?![\w-])", done.stderr)]
            if done.returncode != 2 or not refused:
                return  # if it is refused for another reason, the run itself will tell
            for old in refused:
                del self.words[old]

    def once(self, name: str, action: Callable[[], None]) -> Path:
        """The folder of this name in the results; `action` fills it, unless it did before."""
        folder, finished = self.results / name, self.results / "finished" / name
        if finished.exists():
            say(f"{self.label}: {name}: kept from before")
        else:
            say(f"{self.label}: {name}")
            shutil.rmtree(folder, ignore_errors=True)
            action()
            finished.touch()
        return folder

    def train(self, name: str, options: str) -> None:
        """A run into the folder of this name, or on with the run that is there."""
        self.biggan("train", *options.split(), *ALWAYS.split(), "--run", str(self.results / name))

    def trained(self, name: str) -> Path:
        """The folder of one of RUNS."""
        return self.once(name, partial(self.train, name, RUNS[name]))

    def half(self) -> Path:
        """The float32 run, stopped after half of its steps."""
        name = "half"
        return self.once(name, partial(self.train, name, f"{RUNS['fp32']} --train.steps {HALF}"))

    def resumed(self, name: str, half: Path) -> Path:
        """A copy of a run that was stopped halfway, resumed."""

        def action() -> None:
            shutil.copytree(half, self.results / name)
            self.train(name, RUNS["fp32"])

        return self.once(name, action)

    def sampled(self, name: str, model: Path) -> Path:
        """Samples from a copy of a model folder."""

        def action() -> None:
            copy = self.results / f"{name}-model"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(model, copy)
            self.biggan("sample", str(copy), *SAMPLE.split(), "--out", str(self.results / name))

        return self.once(name, action)


def tensors(folder: Path) -> list[Entry]:
    """Of all safetensors files below the folder."""
    found = []
    for file in sorted(folder.rglob("*.safetensors")):
        for name, tensor in deserialize(file.read_bytes()):
            data = hashlib.sha256(tensor["data"]).hexdigest()
            found.append(Entry(0, name, f"{tensor['dtype']} {tensor['shape']} {data}"))
    return found


def last_checkpoint(run: Path) -> list[Entry]:
    """The tensors of the last checkpoint; names of checkpoints end in the step."""
    folders = [path for path in (run / "checkpoints").iterdir() if re.fullmatch(r"\D*\d+", path.name)]
    return tensors(max(folders, key=lambda path: int(re.sub(r"\D", "", path.name)))) if folders else []


def logged(run: Path) -> list[Entry]:
    """The numbers of all logs, but times."""
    lines = [json.loads(line) for file in sorted(run.glob("*.jsonl")) for line in file.read_text().splitlines()]
    return [Entry(line["step"], *number) for line in lines if "step" in line for number in numbers("", line)]


def numbers(name: str, value: Any) -> list[tuple[str, str]]:
    """The names and the numbers in what was read from JSON."""
    if isinstance(value, dict):
        parts = [(f"{name}.{key}" if name else key, item) for key, item in value.items() if not TIMES.search(key)]
    elif isinstance(value, list):
        parts = [(f"{name}[{index}]", item) for index, item in enumerate(value)]
    else:
        return [(name, repr(value))] if isinstance(value, int | float) and name != "step" else []
    return [number for part in parts for number in numbers(*part)]


def pictures(files: list[Path]) -> list[Entry]:
    """The pixels of image files."""
    found = []
    for file in files:
        with Image.open(file) as image:
            pixels = hashlib.sha256(image.tobytes()).hexdigest()
            found.append(Entry(0, file.name, f"{image.mode} {image.size} {pixels}"))
    return found


def compare(what: str, unit: str, old: list[Entry], new: list[Entry]) -> tuple[bool, str]:
    """Whether both hold the same things, and what is to be said of it."""
    if not old:
        return False, f"{what}: nothing found in OLD"
    counts = [Counter((entry.place, entry.content) for entry in entries) for entries in (old, new)]
    differing = []
    for label, entries, left in (("OLD", old, counts[0] - counts[1]), ("NEW", new, counts[1] - counts[0])):
        only = sorted(entry for entry in entries if (entry.place, entry.content) in left)
        if only:
            step = f"step {only[0].place}: " if only[0].place else ""
            first = f"{step}{only[0].name} = {only[0].content[:40]}"
            differing.append(f"{len(only)} of {len(entries)} only in {label}, first {first}")
    if differing:
        return False, f"{what}: {'; '.join(differing)}"
    renamed = {entry.name for entry in set(old) - set(new)}
    return True, f"{what} {len(old)} {unit}" + (f" ({len(renamed)} renamed)" if renamed else "")


def compare_runs(old: Path, new: Path) -> list[tuple[bool, str]]:
    """All that is compared of two run folders."""
    sheets = [sorted((run / "samples").glob("*.png"))[-1:] for run in (old, new)]
    return [
        compare("checkpoint", "tensors", last_checkpoint(old), last_checkpoint(new)),
        compare("model", "tensors", tensors(old / "model"), tensors(new / "model")),
        compare("log", "numbers", logged(old), logged(new)),
        compare("sheet", "image", pictures(sheets[0]), pictures(sheets[1])),
    ]


def compare_samples(old: Path, new: Path) -> list[tuple[bool, str]]:
    """The images in two folders."""
    return [compare("samples", "images", *(pictures(sorted(folder.glob("*.png"))) for folder in (old, new)))]


def say(text: str) -> None:
    """One line of progress, with the seconds since the start."""
    print(f"[{time.monotonic() - STARTED:4.0f} s] {text}", file=sys.stderr, flush=True)


def key_of(tree: Path) -> str | None:
    """What the results of a checkout depend on: its commit, this script, torch and the processor. None where no commit says
    what the code is."""
    commit = subprocess.run(["git", "-C", str(tree), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    changes = subprocess.run(["git", "-C", str(tree), "status", "--porcelain", "src"], capture_output=True, check=False)
    if commit.returncode or changes.returncode or changes.stdout:
        return None
    info = Path("/proc/cpuinfo")
    processor = re.findall("model name.*", info.read_text())[:1] if info.exists() else platform.node()
    parts = [Path(__file__).read_text(), sys.version, version("torch"), processor]
    return f"{commit.stdout.strip()[:12]}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:8]}"


def all_comparisons(old: Tree, new: Tree) -> int:
    """Run everything, print what is equal and what differs; the number of comparisons that differ."""
    wrong = 0

    def check(name: str, comparison: Callable[[], list[tuple[bool, str]]]) -> None:
        nonlocal wrong
        try:
            found = comparison()
        except Failed as error:
            found = [(False, str(error))]
        equal = all(same for same, _ in found)
        wrong += not equal
        text = ", ".join(text for _, text in found) if equal else "; ".join(text for same, text in found if not same)
        print(f"{'equal  ' if equal else 'DIFFERS'}  {name}: {text}", flush=True)

    for name in RUNS:
        check(f"{name} run", lambda name=name: compare_runs(old.trained(name), new.trained(name)))
    for tree in (old, new):
        resumed = partial(tree.resumed, "resumed")
        check(
            f"resumed run of {tree.label}, and its undisturbed one",
            lambda tree=tree, resumed=resumed: compare_runs(tree.trained("fp32"), resumed(tree.half())),
        )
    check("run of OLD resumed by NEW", lambda: compare_runs(old.trained("fp32"), new.resumed("resumed-of-old", old.half())))

    def samples() -> list[tuple[bool, str]]:
        model = old.trained("fp32") / "model"
        return compare_samples(old.sampled("sampled", model), new.sampled("sampled", model))

    check("samples from a model of OLD", samples)
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="checkout of the older commit, e.g. a git worktree")
    parser.add_argument("new", type=Path, nargs="?", default=Path(__file__).parents[1], help="checkout of the newer one")
    parser.add_argument("--work", type=Path, help="folder for all results; those of OLD are used again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = (options.work or Path(scratch)).resolve()
        key = key_of(options.old)
        folders = {"OLD": work / f"old-{key or 'changed'}", "NEW": work / "new"}
        for label in ("NEW",) if key else ("OLD", "NEW"):
            shutil.rmtree(folders[label], ignore_errors=True)
        old, new = (Tree(label, getattr(options, label.lower()).resolve(), folders[label]) for label in folders)
        for tree in (old, new):
            tree.find_words()
            said = ", ".join(tree.words.get(word, word) for word in RENAMED_OPTIONS)
            say(f"{tree.label}: {tree.path}; it takes {said}")
        wrong = all_comparisons(old, new)
    print("everything is equal" if not wrong else f"{wrong} comparisons differ", flush=True)
    sys.exit(1 if wrong else 0)


STARTED = time.monotonic()

if __name__ == "__main__":
    main()
