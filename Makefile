# make book   environment, data, strict build; prints the path of the first page
# make test   environment, data, pytest, and every notebook re-executed and compared

PYTHON ?= python3
VENV   ?= .venv
PRESET ?= book
WORKERS ?= 2
ARGS   ?=
OUT    ?= _build/gpu-out

BIN       := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NOTEBOOKS := $(sort $(wildcard book/*.ipynb))
PIP       := $(BIN)/python -m pip --disable-pip-version-check -qq install

.DEFAULT_GOAL := help
.PHONY: help install data book pdf links test notebooks reproduce gpu break seal lint clean

help:
	@echo "make book                    build the book in _build/html"
	@echo "make pdf                     the book as one PDF, with Chromium or Chrome"
	@echo "make links                   do the links to other sites lead somewhere?"
	@echo "make test                    unit tests, then every notebook re-executed and compared"
	@echo "make notebooks               execute the notebooks in place"
	@echo "make reproduce PRESET=book   compute every published run, then execute the notebooks"
	@echo "make gpu OUT=folder          tests, kernels and paper runs on a GPU, with PYTHON as it is"
	@echo "make break                   kill, mistreat and damage it; ARGS='--kills 100 --inputs 200 --flips 300'"
	@echo "make seal                    checksums of tables of measurements that were changed by hand"
	@echo "make lint                    ruff"
	@echo "make clean                   remove what was built (data and finished runs stay)"
	@echo "variables: PYTHON=$(PYTHON) VENV=$(VENV) PRESET=$(PRESET) WORKERS=$(WORKERS) ARGS='$(ARGS)'"

install: $(INSTALLED)

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11")'
	@echo "Installing into $(VENV); the first time this takes a few minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) -r requirements.txt
	@$(PIP) --no-deps -e .
	@touch $@

data: install
	@$(BIN)/python -m tangents data mnist

book: data
	rm -rf _build/html _build/.doctrees
	$(BIN)/jupyter-book build . --all -W -n --keep-going -q
	@echo "The book: $(CURDIR)/_build/html/index.html"

pdf: install
	$(BIN)/python tools/pdf.py _build/book.pdf

links: install
	$(BIN)/jupyter-book build . --builder linkcheck -q

test: data
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile \
	    --nbval --nbval-current-env --nbval-cell-timeout=600 $(NOTEBOOKS)

notebooks: data
	$(BIN)/python tools/notebooks.py $(NOTEBOOKS)

reproduce: data
	@set -e; for study in $$($(BIN)/python -c \
	    'from tangents import studies; print(*studies.names())'); do \
	  $(BIN)/python -m tangents run $$study --preset $(PRESET) $(ARGS); \
	  $(BIN)/python -m tangents publish $$study --preset $(PRESET); \
	done
	$(BIN)/python tools/headline.py
	$(BIN)/python tools/notebooks.py $(NOTEBOOKS)

gpu:
	$(PYTHON) tools/gpu.py run $(OUT) $(ARGS)

break: install
	$(BIN)/python tools/breaking.py $(ARGS)

seal: install
	@$(BIN)/python -c 'from pathlib import Path; from tangents.lab.store import seal; \
	    [seal(table) for table in Path("data/results").glob("b*.csv")]'

lint: install
	$(BIN)/python -m ruff check .

clean:
	rm -rf _build build .pytest_cache .ruff_cache src/*.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
