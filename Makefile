# Everything runs in .venv, which the first target that needs it makes. Python 3.11 or newer is all that must be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONSTRAINTS := packaging/constraints.txt
FUZZ_TARGETS := v1_document v1_file v2_document v2_file bundle_document bundle_file safetensors_header safetensors_backup safetensors_file cold_file
FUZZ_SECONDS ?= 60
# Of the tests: more than two cores, since many wait for other processes.
WORKERS ?= 3
PACKAGES := adapters cli client codec daemon db desktop measure state store sync tray web

.PHONY: demo example test lint type bench bench-compare desktop-cost soak schema fuzz pictures vendor web-types check wheel deb clean

# torch comes first and pinned: anything that resolves a plain `torch` takes the CUDA build.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[all]' --group test --group lint
	touch $@

demo: $(STAMP)
	$(BIN)/torpor demo

# A chat page; with real weights: make example ARGS="--model-8b PATH --model-4b PATH"
example: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" examples/qwen3-vl-web/start.sh $(ARGS)

test: $(STAMP)
	packaging/test-needs.sh $(BIN)/python
	WORKERS=$(WORKERS) tests/run.sh $(BIN)/python

# The pictures of the documentation, again: screenshots of the dashboard, of the example and of the tray on a panel.
pictures: $(STAMP)
	TORPOR_PANEL=1 packaging/test-needs.sh
	TORPOR_PICTURES=docs/pictures $(BIN)/python -m pytest -q tests/e2e/test_pictures.py tests/e2e/test_tray_pictures.py tests/e2e/test_example.py::test_its_pictures

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(STAMP)
	mkdir -p .ns && ln -sfn .. .ns/torpor
	$(BIN)/mypy $(foreach p,$(PACKAGES),-p torpor.$(p))

check: lint type test

# Every figure, at every size: results and a chart in bench/results. A part of it: make bench ARGS="--quick --only save"
bench: $(STAMP)
	packaging/bench-needs.sh $(BIN)/python
	$(BIN)/python bench/run.py $(ARGS)

# Two runs, figure by figure: the newest two, or make bench-compare BASE=file NEW=file
bench-compare: $(STAMP)
	$(BIN)/python bench/run.py --compare $(BASE) $(NEW)

# What daemon and tray cost at rest, for ten minutes; on a machine that does nothing else.
desktop-cost: $(STAMP)
	packaging/test-needs.sh $(BIN)/python
	$(BIN)/python bench/desktop_cost.py

# Full counts of kills and faults; the log is kept.
soak: $(STAMP)
	TORPOR_PANEL=1 packaging/test-needs.sh $(BIN)/python
	bash -o pipefail -c 'TORPOR_SOAK=1 $(BIN)/python -m pytest -q tests/faults tests/stateful tests/e2e/test_openapi.py tests/e2e/test_cli.py tests/e2e/test_tray_bus.py tests/e2e/test_tray_pictures.py tests/packages --timeout 7200 -s 2>&1 | tee soak.log'
	$(BIN)/python bench/scale_cost.py

# The published schemas; a test compares them.
schema: $(STAMP)
	$(BIN)/python -m torpor.codec.schema docs/schema

# Every reader for FUZZ_SECONDS each; what is found lies in build/fuzz, and make stops at it.
fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --group fuzz
	for target in $(FUZZ_TARGETS); do $(BIN)/python tests/fuzz/run.py $$target $(FUZZ_SECONDS) || exit 1; done

# The libraries of the pages, again.
vendor:
	packaging/vendor.sh

# The types of the pages' modules; needs npm, and nothing of it is needed to run.
web-types:
	npx --yes --package typescript@7.0.2 tsc -p web/jsconfig.json

wheel: $(STAMP)
	rm -rf dist/*.whl dist/*.tar.gz
	packaging/wheel.sh $(BIN)/python dist

# dist/torpor_VERSION_ARCH.deb; on Debian and its children. Needs binutils and dpkg-dev; lintian looks at it where it is.
deb: $(STAMP)
	deb=$$(packaging/deb/build.sh $(BIN)/python) && ls -l "$$deb" && \
		if command -v lintian >/dev/null; then lintian --allow-root --fail-on error,warning "$$deb"; fi

clean:
	rm -rf $(VENV) .venv-wheel .ns build dist *.egg-info
