"""Imports point down, or sideways inside one folder; only verbs print; only one file may call torch.distributed."""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "biggan"
LAYERS = [
    {"errors", "files", "distributed", "stats", "randomness", "weights"},
    {"nn", "latents", "precision"},
    {"models", "data", "metrics", "losses", "regularizers", "augment", "analysis/spectra", "analysis/collapse"},
    {
        "config",
        "settings",
        "presets",
        "improved_presets",
        "checkpoint",
        "starting",
        "sampling",
        "sets",
        "studies",
        "classifier",
    },
    {"training", "pretrained", "analysis"},
    {"bench", "footprint", "study", "games"},
    {"cli"},
    {"__init__", "__main__"},
]
# Inside layer 3 these compose in this order; distributed may be used by stats.
SIDEWAYS = {("presets", "config"), ("checkpoint", "config"), ("sets", "sampling"), ("stats", "distributed")}
SIDEWAYS |= {
    ("bench", "footprint"),
    ("study", "footprint"),
    ("studies", "config"),
    ("starting", "checkpoint"),
    ("config", "settings"),
}
SIDEWAYS |= {("improved_presets", "config"), ("presets", "improved_presets"), ("studies", "settings")}
SIDEWAYS |= {("starting", "config"), ("starting", "settings"), ("classifier", "checkpoint")}
SIDEWAYS |= {("files", "errors"), ("distributed", "errors"), ("weights", "errors"), ("weights", "files")}
VERBS = {"cli", "bench", "__main__"}
FILES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    return room_named(path.relative_to(SOURCE).with_suffix("").parts)


def room_named(parts: tuple[str, ...]) -> str:
    """The first name below the package, but for two files of analysis, which look at numbers alone."""
    both = "/".join(parts[:2])
    return both if any(both in rooms for rooms in LAYERS) else parts[0]


def layer_of(room: str) -> int:
    return next(level for level, rooms in enumerate(LAYERS) if room in rooms)


def imported_rooms(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add(node.module)
            if node.module == "biggan":
                names |= {f"biggan.{alias.name}" for alias in node.names}
    return {room_named(tuple(name.split(".")[1:])) for name in names if name.startswith("biggan.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_layers(path):
    room = room_of(path)
    for other in imported_rooms(ast.parse(path.read_text())):
        assert other == room or layer_of(other) < layer_of(room) or (room, other) in SIDEWAYS, f"{room} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_house_rules(path):
    text = path.read_text()
    tree = ast.parse(text)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {node.func.id for node in calls if isinstance(node.func, ast.Name)}
    if room_of(path) not in VERBS | {"stats"}:
        assert "print" not in names, "only verbs print"
    if room_of(path) != "distributed":
        assert "torch.distributed" not in text
    for word in ("from pickle import UnpicklingError", "UnpicklingError", "unpickl", "weights_only"):
        text = text.replace(word, "")  # refusing is allowed
    assert "pickl" not in text, "nothing is unpickled"
    pytorch_files = re.search(r"(?<!safetensors\.)torch\.load\(", text)
    assert not pytorch_files or path.name == "weights.py", "one place reads PyTorch files"
    assert text.count("Image.open(") == (path.name == "sources.py"), "one place says which formats Pillow may read"
    assert text.count("\n") <= 330, "a room of this size should be two"
    assert ast.get_docstring(tree), "a module header says what the room is for"


def test_readme_names_every_file():
    readme = (SOURCE.parents[1] / "README.md").read_text()
    missing = [path.name for path in FILES if path.name != "__init__.py" and path.name not in readme]
    assert not missing
