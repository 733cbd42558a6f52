# Each target sets up what it needs. PYTHON=/path/to/python3.12 chooses a Python, ARGS=… goes to the command.
SHELL := /bin/sh
.DEFAULT_GOAL := help
BIN := .venv/bin
READY := @scripts/setup

.PHONY: help setup demo serve test test-modules lint format proto bench bench-sealing chaos soak fuzz lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## make .venv and find SoftHSM; every target does it by itself
	$(READY)

demo: ## seal examples/app with a key inside a SoftHSM token, and open it again
	$(READY) -- $(BIN)/python scripts/demo.py

serve: ## keep the demo service running, and print the exports that `privyseal` needs
	$(READY) -- $(BIN)/python scripts/serve.py

test: ## run every test; ARGS="-k capgo -x" goes to pytest
	$(READY) --for-tests -- $(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

test-modules: ## run the conformance suite on other makers' PKCS#11 modules, installed with apt-get
	$(READY) --for-tests -- scripts/install_modules.sh
	$(READY) --for-tests -- $(BIN)/python -m pytest tests/modules $(ARGS)

lint: ## check style, types, protos, generated stubs, scripts and the Containerfile
	$(READY) -- scripts/lint

format: ## lay out the Python code as ruff does
	$(READY) -- $(BIN)/ruff format --exclude '*.md'

proto: ## generate client/privyseal/v1 from proto/, and take the change into proto/landed.json if it breaks no client
	$(READY) -- $(BIN)/python scripts/generate_stubs.py
	$(READY) -- $(BIN)/python scripts/accept_proto.py

bench: ## measure throughput, latency and CPU time against the bare PKCS#11 module
	$(READY) --for-tests -- $(BIN)/python bench/throughput.py $(ARGS)

bench-sealing: ## compare time and memory of sealing with the published Capgo CLI
	$(READY) --for-tests -- $(BIN)/python bench/sealing.py $(ARGS)

chaos: ## break the real service in every way known, under load; ARGS="--seed 7" repeats a run
	$(READY) --for-tests -- $(BIN)/python scripts/chaos.py $(ARGS)

soak: ## load the service and break it at random; MINUTES=60 instead of 10, ARGS="--seed 7" repeats a run
	$(READY) --for-tests -- $(BIN)/python scripts/soak.py $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

fuzz: ## send damaged requests, tokens and key sets for some minutes; ARGS="--minutes 5"
	$(READY) --for-tests -- $(BIN)/python scripts/fuzz.py $(ARGS)

lock: ## solve requirements.lock again from pyproject.toml
	$(READY) -- scripts/lock

clean: ## remove .venv, .demo and every cache in the checkout
	rm -rf .venv .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
