# Everything a fresh machine needs is Python 3.11+, make and a C++ compiler (without one the reference path is installed).
# `make demo` and `make test` do the rest; VENV and PY may be given.
PY ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
READY := $(VENV)/.ready
NATIVE := CMakeLists.txt $(wildcard native/*)

.PHONY: help demo test test-slow test-isas test-ecosystem page-test accuracy record check format bench bench-evaluate clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 14

# torch first and pinned: a package that names it would otherwise pull the newest build, GPU libraries and all.
$(READY): pyproject.toml constraints.txt $(NATIVE)
	test -d $(VENV) || $(PY) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[test]'
	touch $@

# Tools alone: another installation of lossless would compile the kernels once more.
$(VENV)/.checkers: .ci/requirements.txt constraints.txt $(READY)
	$(PIP) --requirement .ci/requirements.txt
	touch $@

demo: $(READY) ## the main job on real input: writes report.html and results.json
	$(BIN)/lossless demo

# Two processes; the second takes over from the end of what the first still has to do.
test: $(READY) ## the tests (those marked slow left out)
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist worksteal

test-slow: $(READY) ## the long tests
	$(BIN)/python -m pytest -m slow

test-isas: $(READY) ## the accuracy tests on the reference path and on every instruction set of this machine
	for isa in reference $$($(BIN)/python -c "import lossless._native as n; print(*n.available_isas())"); do \
		echo "== $$isa" && LOSSLESS_ISA=$$isa $(BIN)/python -m pytest -m "not slow" \
			tests/test_accuracy.py tests/test_edges.py tests/test_special_values.py tests/test_gradients.py \
			tests/test_second_derivatives.py tests/test_laws.py tests/test_row_numbers.py || exit 1; \
	done

# An environment of its own: these packages are large, and bring versions of others with them.
ECOSYSTEM ?= .venv-ecosystem
$(ECOSYSTEM)/.ready: pyproject.toml constraints.txt tests/ecosystem/requirements.txt $(NATIVE)
	test -d $(ECOSYSTEM) || $(PY) -m venv $(ECOSYSTEM)
	$(ECOSYSTEM)/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt torch
	$(ECOSYSTEM)/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt \
		--requirement tests/ecosystem/requirements.txt --editable .
	touch $@

test-ecosystem: $(ECOSYSTEM)/.ready ## training steps of transformers, Lightning and timm under `lossless run` (three minutes)
	$(ECOSYSTEM)/bin/python -m pytest --confcutdir tests/ecosystem tests/ecosystem/test_ecosystem.py

$(VENV)/.page: tests/page/requirements.txt constraints.txt $(READY)
	$(PIP) --requirement tests/page/requirements.txt
	touch $@

page-test: $(VENV)/.page ## the report in headless Chromium, if that is installed
	$(BIN)/python -m pytest -rs tests/page

accuracy: $(READY) ## fresh random inputs against the oracle, 100,000 rows, beside the installed peers (six minutes)
	$(BIN)/lossless accuracy --rows 100000

record: $(READY) ## write tests/recorded.toml and tests/hashes.toml anew, when errors or bits change on purpose
	LOSSLESS_RECORD=1 $(BIN)/python -m pytest -m "not slow" tests/test_accuracy.py tests/test_gradients.py tests/test_hashes.py

troubleshooting: $(READY) ## write docs/troubleshooting.md anew, when its table changes
	$(BIN)/python -m lossless._diagnose.page > docs/troubleshooting.md

check: $(VENV)/.checkers ## formatting, lint, types, imports, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror native/*.h native/*.cpp
	$(BIN)/lint-imports
	$(BIN)/codespell README.md ARCHITECTURE.md CONTRIBUTING.md CHANGELOG.md docs native src tests benchmarks

format: $(VENV)/.checkers ## rewrite the sources in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i native/*.h native/*.cpp

bench: $(READY) ## every function's time, memory and error beside the installed peers', as ratios
	$(BIN)/lossless bench

ROWS ?= 2000000
bench-evaluate: $(READY) ## time and memory of `lossless evaluate` on ROWS rows, beside the least and scikit-learn
	$(BIN)/python benchmarks/evaluate.py --rows $(ROWS)

clean: ## remove what the targets made
	rm -rf $(VENV) $(ECOSYSTEM) build report.html results.json predictions.parquet
