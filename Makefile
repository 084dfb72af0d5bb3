# make demo       train a small BigGAN on real handwritten digits and sample from it, a few minutes on two CPU cores
# make test       the whole test suite
# make test-fast  the tests that take no more than a moment each, under two minutes on two CPU cores
# make lint       ruff
# make types      mypy
# Each creates .venv and installs into it first; only Python 3.11 or later, git and make need to be there.

PYTHON ?= python3
BIN = .venv/bin
# One thread for each process: two processes of one thread do more than one process of two.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

.PHONY: demo test test-fast lint types

demo: .venv/installed
	$(BIN)/biggan train digits --run runs/demo
	$(BIN)/biggan sample runs/demo --n 100 --out runs/demo/samples-100 --overwrite

test: .venv/installed
	$(PYTEST)

test-fast: .venv/installed
	$(PYTEST) -m "not slow"

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
