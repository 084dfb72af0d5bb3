# make demo   train a small BigGAN on real handwritten digits and draw from it, a few minutes on two CPU cores
# make test   the whole test suite
# make lint   ruff
# Each creates .venv and installs into it first; only Python 3.11 or later, git and make need to be there.

PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test lint

demo: .venv/installed
	$(BIN)/biggan train digits --run runs/digits
	$(BIN)/biggan sample runs/digits --n 100 --out runs/digits/drawn

# One thread for each process: two processes of one thread do more than one process of two.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
