"""Fixtures: where the shared files are, a tiny run, folders of small pictures, foreign models as their makers save them."""

import dataclasses
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from biggan.cli.main import main
from biggan.configs.overrides import replace_fields
from biggan.configs.presets import preset
from biggan.configs.run import RunConfig
from biggan.configs.train import TrainConfig
from biggan.data.dataset import DataConfig
from biggan.metrics.features import save_trust
from biggan.models.biggan import BigGANConfig
from biggan.models.registry import ModelConfig
from biggan.runtime.atomic_io import file_sha256
from biggan.runtime.logging import PrintableFormatter

SHARED = Path(__file__).resolve().parents[2] / "shared"


LONGEST = ("test_faults.py", "test_distributed.py", "test_webdataset.py")
SLOW_FOLDERS = ("checkpoints", "cli", "pretrained", "profiling", "studies", "training")
SLOW = (*LONGEST, "test_gradient_penalties.py", "test_layer_factory.py", "test_prepare.py", "test_singular_values.py")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Log messages may hold names that are no text, which pytest-xdist cannot hand from process to process."""
    if plugin := config.pluginmanager.get_plugin("logging-plugin"):
        plugin.report_handler.setFormatter(PrintableFormatter("%(levelname)s %(name)s: %(message)s"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that train or write files as slow. Run the longest first, so that no worker ends with one while the others
    have nothing left."""
    for item in items:
        if item.path.parent.name in SLOW_FOLDERS or item.path.name in SLOW:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.path.name not in LONGEST)


def shared_file(name: str) -> Path:
    """A file beside the checkout; the test is skipped where it is absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"../shared/{name} is not on this machine")
    return path


def golden_file(name: str) -> Path:
    """A file with weights or outputs of another implementation (tests/golden/README.md)."""
    return Path(__file__).resolve().parent / "golden" / name


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's cache of decoded images."""
    monkeypatch.setenv("BIGGAN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def model_config(family: type, **fields: object) -> ModelConfig:
    """A model config of a family; a double underscore leads into a part: generator__norm="virtual"."""
    nested = {name.replace("__", "."): value for name, value in fields.items() if "__" in name}
    return replace_fields(family(**{name: value for name, value in fields.items() if "__" not in name}), nested)


def tiny_config(**train: object) -> RunConfig:
    """A run of seconds: digits, width 2, float32 on the CPU."""
    settings = {"steps": 4, "batch": 8, "log_every": 1, "sample_every": 1000, "checkpoint_every": 1000}
    settings |= {"standing_stats_batches": 2, "device": "cpu", "precision": "fp32", "discriminator_steps": 2}
    return dataclasses.replace(
        preset("digits"),
        model=BigGANConfig(resolution=32, width=2, embedding_dim=8),
        data=DataConfig(source="embedded:digits", flip=True),
        train=TrainConfig(**(settings | train)),
    )


def write_pictures(folder: Path, classes: dict[str, int], size: tuple[int, int] = (40, 32)) -> None:
    """Class folders of small random pictures."""
    numbers = np.random.default_rng(0)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels = numbers.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")


@pytest.fixture
def notes() -> Iterator[list[str]]:
    """What the package says to its logger, line by line, as it is said."""
    said: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("biggan")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield said
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def call(capsys, *words):
    """Exit code, standard output and standard error of one command."""
    with pytest.raises(SystemExit) as exit_:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return exit_.value.code or 0, out, err


@pytest.fixture
def hugging_face(tmp_path) -> Path:
    """A folder with config.json and pytorch_model.bin."""
    source, folder = golden_file("hf_biggan_deep_128_tiny.safetensors"), tmp_path / "hugging_face"
    folder.mkdir()
    with safe_open(source, "pt") as file:
        (folder / "config.json").write_text(file.metadata()["config"])
    torch.save(load_file(source), folder / "pytorch_model.bin")
    return folder


@pytest.fixture
def biggan_pytorch(tmp_path) -> Path:
    """A folder with G.pth, G_ema.pth (half of G's weights) and D.pth, 32 px, 10 classes."""
    folder = tmp_path / "biggan_pytorch"
    folder.mkdir()
    for player in "GD":
        tensors = load_file(golden_file(f"biggan_pytorch_32_tiny.{player}.safetensors"))
        torch.save(tensors, folder / f"{player}.pth")
        if player == "G":
            torch.save({name: tensor / 2 for name, tensor in tensors.items()}, folder / "G_ema.pth")
    return folder


class Small(nn.Module):
    """uint8 images -> eight features and three logits."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.head = nn.Linear(8, 3)

    def forward(self, images):
        x = self.conv(images.float() / 255).relu().mean((2, 3))
        return x, self.head(x)


@pytest.fixture
def small(small_untrusted) -> Path:
    """A TorchScript file of Small, which the user has trusted before."""
    save_trust(small_untrusted, file_sha256(small_untrusted))
    return small_untrusted


@pytest.fixture(scope="session")
def small_untrusted(tmp_path_factory) -> Path:
    """A TorchScript file of Small."""
    file = tmp_path_factory.mktemp("module") / "small.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(Small(), torch.zeros(2, 3, 16, 16, dtype=torch.uint8)), file)
    return file
