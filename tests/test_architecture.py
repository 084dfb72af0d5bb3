"""Imports point down, or stay inside one folder: folder names alone decide. Only verbs print; one file calls
torch.distributed."""

import ast
import importlib
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "biggan"
LAYERS = [
    {"runtime", "nn"},
    {"models", "data", "metrics", "objectives"},
    {"sampling"},
    {"configs"},
    {"checkpoints"},
    {"analysis"},
    {"training", "pretrained"},
    {"profiling"},
    {"studies"},
    {"cli"},
]
LEVELS = {folder: level for level, folders in enumerate(LAYERS) for folder in folders}
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = [path for path in FILES if path.parent != SOURCE]


def imported_folders(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add(node.module)
            if node.module == "biggan":
                names |= {f"biggan.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("biggan.")}


def test_every_file_is_in_a_folder_of_the_law():
    assert {path.name for path in FILES if path.parent == SOURCE} == {"__init__.py", "__main__.py"}
    assert {path.relative_to(SOURCE).parts[0] for path in MODULES} == set(LEVELS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path):
    folder = path.relative_to(SOURCE).parts[0]
    for other in imported_folders(ast.parse(path.read_text())):
        assert other == folder or LEVELS[other] < LEVELS[folder], f"{folder} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_house_rules(path):
    text = path.read_text()
    tree = ast.parse(text)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {node.func.id for node in calls if isinstance(node.func, ast.Name)}
    if path.name not in ("output.py", "progress.py", "main.py"):
        assert "print" not in names, "results are printed by cli.output.say, all else is logged"
    if path.name != "distributed.py":
        assert "torch.distributed" not in text
    unpickling = re.search(r"import pickle\b|from pickle import (?!UnpicklingError)|weights_only=False|read_pickle", text)
    assert not unpickling, "nothing is unpickled but by PyTorch's restricted reader"
    pytorch_files = re.search(r"(?<!safetensors\.)torch\.load\(", text)
    assert not pytorch_files or path.name == "tensor_files.py", "one place reads PyTorch files"
    assert text.count("Image.open(") == (path.name == "image_decoding.py"), "one place says which formats Pillow may read"
    assert text.count("\n") <= 340, "a file of this size should be two"
    assert ast.get_docstring(tree), "a module header says what the file is for"
    assert "TODO" not in text


def test_docs_name_every_file():
    tree = (SOURCE.parents[1] / "docs" / "architecture.md").read_text()
    missing = [str(path.relative_to(SOURCE)) for path in MODULES if path.name != "__init__.py" and path.name not in tree]
    assert not missing


def test_papers_cite_code_that_exists():
    """A reference such as `nn/batch_norm.ConditionalNorm` names a file, and something defined in it."""
    pattern = re.compile(rf"`((?:{'|'.join(LEVELS)})/\w+)(?:\.(\w+))?`")
    notes = sorted((SOURCE.parents[1] / "docs" / "papers").glob("*.md"))
    references = [match.groups() for file in notes for match in pattern.finditer(file.read_text())]
    assert len(references) > 40
    for module, name in references:
        text = (SOURCE / f"{module}.py").read_text()
        assert name is None or re.search(rf"^(?:class |def )?{name}\b", text, re.MULTILINE), f"{module}.{name}"


@pytest.mark.parametrize("path", sorted((SOURCE.parents[1] / "recipes").glob("*.py")), ids=lambda path: path.name)
def test_recipes_import_what_exists(path):
    """No other test runs the recipes."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("biggan"):
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
