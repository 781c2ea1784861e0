# The environment of the project, its checks and a first training, from nothing but Python 3.11 or 3.12.

PYTHON ?= python3
CONFIG ?= faster_rcnn_shapes.yaml

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --constraint constraints.txt

.PHONY: help train test coverage test-processors lint docs pictures clean

help: ## say what each target does
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST)

train: $(VENV)/package ## train Faster R-CNN on a small data set that is made on the spot (CONFIG=... for another)
	$(BIN)/python tools/train.py --config $(CONFIG)

# One process a core, of one thread: the tensors of the tests are small, and more threads would only wait for each other.
# The tests of a class stay in one process, which trains their network once. A process takes up to 5 GiB.
test coverage: export OMP_NUM_THREADS ?= 1
test: $(VENV)/development ## run the tests
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadscope $(PYTEST_ARGUMENTS)

coverage: PYTEST_ARGUMENTS += --cov
coverage: test ## run the tests, slower; fail if they cover less of the package than pyproject.toml requires

test-processors: $(VENV)/development ## run the numerical tests with the instructions of other processors (takes an hour)
	.ci/processors

lint: $(VENV)/development ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/development ## build the documentation, build/site/index.html
	PYTHONPATH=. $(BIN)/zensical build --clean --strict --config-file mkdocs.yml

pictures: $(VENV)/development ## make the pictures of the documentation from synthetic shapes
	$(BIN)/python tools/pictures.py

clean: ## remove the environment and everything that tools left behind; keeps data sets and runs
	rm -rf $(VENV) build dist .cache .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Installed again only when the requirements change. Making the environment twice does no harm, and mends half of one.
$(VENV)/package: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/development: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[dev]'
	touch $(VENV)/package $@
