"""Training from a web server against training from the disk: `python recipes/served_shards.py tinyimagenet.zip --size 64`.

Prepares WebDataset shards, serves them on localhost, and runs generator steps of the cifar10 preset at this size from the
packed file, the shards on the disk and the served ones, in turns, in one process. Then one shard is taken away from the
server, and the stream runs over the whole set: prints what was tried again and what was left out.
"""

import argparse
import dataclasses
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from biggan.configs.presets import preset
from biggan.data.dataset import open_source
from biggan.data.formats import Packed, Shards
from biggan.data.prepare import prepare
from biggan.data.sources import list_source
from biggan.runtime.memory import keep_freed_memory
from biggan.training.setup import build_train_state
from biggan.training.step import train_step

PORT = 8917


def main(options: argparse.Namespace, folder: Path) -> None:
    listing = list_source(str(options.source))
    prepare(listing, folder / "shards", Shards(options.size))
    prepare(listing, folder / "packed", Packed(options.size))
    address = f"http://127.0.0.1:{PORT}"
    command = [sys.executable, "-m", "http.server", str(PORT), "--bind", "127.0.0.1", "--directory", str(folder / "shards")]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        time.sleep(1)
        urllib.request.urlopen(address).close()
        specs = {"packed": f"packed:{folder / 'packed'}", "disk": f"wds:{folder / 'shards'}", "server": f"wds:{address}"}
        sources = {name: open_source(spec, options.size) for name, spec in specs.items()}
        compare(sources, options)
        (folder / "shards" / "shard-000007.tar").unlink()
        source = open_source(f"wds:{address}", options.size)
        images = sum(len(labels) for _, labels in itertools.islice(source.stream(50, seed=0), source.count // 50))
        print(f"one shard taken away: {images} images came, {source.read_errors()}")
    finally:
        server.terminate()


def compare(sources: dict, options: argparse.Namespace) -> None:
    """Steps from each source in turns."""
    keep_freed_memory()
    config = preset("cifar10")
    model = dataclasses.replace(config.model, num_classes=sources["disk"].num_classes, resolution=options.size)
    state = build_train_state(dataclasses.replace(config, model=model))
    streams = {name: source.stream(state.plan.micro_batch, seed=0) for name, source in sources.items()}
    rates = {name: [] for name in sources}
    for round_, (name, stream) in itertools.product(range(options.rounds + 1), streams.items()):
        started = time.perf_counter()
        for step in range(options.steps):
            train_step(state, step + 1, stream)
        if round_:  # the first warms up
            rates[name].append(options.steps * state.plan.real_images / (time.perf_counter() - started))
    for name, values in rates.items():
        ratio = statistics.median(values) / statistics.median(rates["disk"])
        values = f"{statistics.median(values):6.1f} images/s ({min(values):.1f} to {max(values):.1f})"
        print(f"training from {name:7} {values}, {ratio:.3f} of that from the shards on the disk")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5, help="generator steps a turn")
    parser.add_argument("--rounds", type=int, default=5)
    with tempfile.TemporaryDirectory() as scratch:
        main(parser.parse_args(), Path(scratch))
