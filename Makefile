# `make demo` and `make test` do all the set-up on a machine with Python 3.11, pip, gcc and nothing else.

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready

.PHONY: demo test test-all lint bench screenshots clean

demo: $(READY)
	$(VENV)/bin/python -m benchmarks.demo demo

test: $(READY)
	$(VENV)/bin/python -m pytest -m "not heavy"

test-all: $(READY)
	$(VENV)/bin/python -m pytest

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

bench: $(READY)
	$(VENV)/bin/python -m benchmarks.quantization
	$(VENV)/bin/python -m benchmarks.quantization --ahead
	$(VENV)/bin/python -m benchmarks.speed --model umxhq --random-weights --peers
	$(VENV)/bin/python -m benchmarks.speed --model umxl --random-weights
	$(VENV)/bin/python -m benchmarks.memory --model umxhq --random-weights
	$(VENV)/bin/python -m benchmarks.startup
	$(VENV)/bin/python -m benchmarks.idle
	$(VENV)/bin/python -m benchmarks.quality

screenshots: $(READY)
	$(VENV)/bin/python -m benchmarks.screenshots screenshots
	mkdir -p docs && cp screenshots/desktop-dark.jpg screenshots/phone-light.jpg docs/

$(READY): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info
