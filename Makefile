# make demo | compare | bench | test | test-slow | check | docs: each sets up .venv first where needed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo compare bench test test-slow test-gpu check docs clean

demo: .venv/ready
	$(BIN)/python -m demo

compare: .venv/ready
	$(BIN)/python -m demo.comparison

bench: .venv/ready
	$(BIN)/python -m benchmarks

test: .venv/ready
	$(BIN)/python -m pytest

test-slow: .venv/ready
	$(BIN)/python -m pytest -m slow

test-gpu: .venv/ready
	$(BIN)/python -m tests.gpu

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/ready
	PYTHONHASHSEED=0 PYTHONPATH=. $(BIN)/python docs/make.py

clean:
	rm -rf .venv demo-output comparison-output

.venv/ready: pyproject.toml requirements.txt requirements-demo.txt requirements-dev.txt requirements-facenet.txt requirements-faiss.txt requirements-heif.txt requirements-parquet.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-demo.txt -r requirements-dev.txt -r requirements-faiss.txt -r requirements-parquet.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-facenet.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/heif -r requirements-heif.txt
	touch $@
