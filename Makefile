# Needs only Python >= 3.11 and make. Each target makes .venv and installs what it needs; a second run reuses it.
#     make demo                       watch it work, in about three minutes after installation
#     make test PYTHON=python3.13     with another interpreter

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
THREADS ?= 2
MINOR = $(shell $(RUN) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
LOCK = $(if $(CI),$(addprefix -c ,$(wildcard .ci/lock-$(MINOR).txt)))

.PHONY: help demo gallery test test-quick test-slow lint lock bench bench-quick bench-sweeps docs clean

help:
	@echo "make demo         train on handwritten digits, then audit 200 random networks against jax.grad"
	@echo "make gallery      train every recipe on real data, short, and write out/gallery/index.html: a quarter of an hour"
	@echo "make test         lint, types and all tests but the slow: make test-slow has those, audits of half a minute"
	@echo "make test-quick   every twentieth test of each file: as on the newest Python in .ci/run"
	@echo "make lint         lint and types alone"
	@echo "make bench        every workload beside jax.grad, Flax NNX, Equinox and PyTorch; make bench-quick is a short form"
	@echo "make bench-sweeps private steps, norms of examples and readings of a watch beside vmap of grad and the ordinary step"
	@echo "make docs         the documentation into site/, warnings are errors; open site/index.html, no server is needed"
	@echo "make clean        remove .venv, caches and what the examples wrote"

demo: $(VENV)/.installed-examples
	$(RUN) -m examples.digits
	$(RUN) -m verify networks --count 200
	@echo "Next: audit a rule of your own,   $(VENV)/bin/python -m verify function module:name --reference module:plain --example 'f32[4,8]'"
	@echo "      train a network of your own, docs/getting-started.md;  every recipe,  make gallery"

gallery: $(VENV)/.installed-examples
	$(RUN) -m examples.gallery

test: lint
	$(RUN) -m pytest -n $(THREADS) -m "not slow"

test-slow: $(VENV)/.installed-test
	$(RUN) -m pytest -n $(THREADS) -m slow

test-quick: $(VENV)/.installed-test
	$(RUN) -m pytest -n $(THREADS) -m "not slow" --sample 20

lint: $(VENV)/.installed-test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright

bench: $(VENV)/.installed-bench
	$(RUN) -m benchmarks --json benchmarks/results/cpu.json

bench-sweeps: $(VENV)/.installed-bench
	$(RUN) -m benchmarks.sweeps --output benchmarks/results/sweeps.md

bench-quick: $(VENV)/.installed-bench
	$(RUN) -m benchmarks --quick

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

# What .ci/run installs, for its Python: run once a week, look at the difference, commit it.
lock: $(VENV)/.installed-test
	$(RUN) -m pip freeze --exclude-editable --exclude jbp > .ci/lock-$(MINOR).txt

clean:
	rm -rf $(VENV) .venv-newest out site build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each extra of pyproject.toml; written last, so that an interrupted installation is taken up again.
$(VENV)/.installed-%: pyproject.toml | $(VENV)/bin/pip
	$(RUN) -m pip install --quiet --disable-pip-version-check $(LOCK) --editable '.[$*]'
	@touch $@

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit("jbp needs Python >= 3.11; give one with make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
