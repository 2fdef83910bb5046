# `make demo` and `make test` set up the environment first, if need be.

# The first interpreter found that is Python 3.11 or 3.12; `make PYTHON=/path/to/python ...` chooses another.
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
PY := .venv/bin/python
# One process per core, one thread per process: more threads than cores make every step slower.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: setup demo test lint bench kaggle-bundle kaggle-test clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or 3.12 found; name one with make PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	.venv/bin/uv pip install --quiet --compile-bytecode --python $(PY) --constraint constraints.txt --requirement pyproject.toml --extra dev
	.venv/bin/uv pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	bash demo/run.sh

test: setup
	$(PY) -m pytest -n 2 --dist loadfile --durations 15

# A run for a notebook without internet: make kaggle-bundle RUN=lora ROOT=DATA (docs/kaggle.md).
ROOT ?= data/lumbarspine
OUT ?= bundles/$(RUN)
kaggle-bundle: setup
	@test -n "$(RUN)" || { echo "make: name the run: make kaggle-bundle RUN=lora ROOT=DATA" >&2; exit 2; }
	$(PY) -m offline.bundle --root $(ROOT) --run $(RUN) --out $(OUT) --overwrite $(FLAGS)

# The same as `make test` does, alone: a bundle in an empty environment, without network.
kaggle-test: setup
	$(PY) -m pytest tests/offline --durations 5

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# The latest output of each benchmark is kept in docs/results. The ones in BY_HAND are not run here: they take longer than
# all others together, or need a trained run or real data.
BY_HAND := -e ablations -e located_grades -e resume -e real_foraminal -e locate_real -e suspect_
bench: setup
	@mkdir -p docs/results; for file in $$(grep -l 'python -m benchmarks' benchmarks/*.py | grep -v $(BY_HAND)); do \
		name=$$(basename $$file .py); \
		echo "== $$name"; $(PY) -m benchmarks.$$name >docs/results/$$name.partial || exit 1; \
		if [ -s docs/results/$$name.partial ]; then mv docs/results/$$name.partial docs/results/$$name.txt; \
		cat docs/results/$$name.txt; else rm docs/results/$$name.partial; fi; done

clean:
	rm -rf .venv data/demo .mypy_cache .ruff_cache .pytest_cache
