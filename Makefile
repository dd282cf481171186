# make demo    JupyterLab with the ACP panel, a sample project and the demo agent
# make test    lint, type checks and all tests; .ci/run is this
#
# Both set up what they need in .venv and labextension/node_modules; a second run only does what has changed.

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip
# jlpm and jupyter-builder call each other by name
JLPM := cd labextension && PATH="$(abspath $(VENV)/bin):$$PATH" jlpm
PINS := requirements/test.txt
IMAGE_PINS := requirements/project.txt
BUILT := jupyter_acp/labextension/static/style.js
FRONT := $(shell find labextension/src labextension/style labextension/schema -type f 2>/dev/null) \
	$(wildcard labextension/*.json labextension/*.js)
# npm programs that the tests talk to, one folder with a package.json each; those of test-agents are its own
PEERS := $(patsubst %/package.json,%/node_modules/.installed,\
	$(filter-out tests/agents_real/%,$(wildcard tests/*/package.json tests/*/*/package.json)))
REAL_AGENTS := $(patsubst %/package.json,%/node_modules/.installed,$(wildcard tests/agents_real/package.json))
# it needs a newer Python than we do, and other versions of what we need too
FAST_AGENT := tests/agents_real/.venv

# of the shell that make was called from: another environment than ours, and IPython warns of it
unexport VIRTUAL_ENV

SHELL := /bin/sh
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:
.PHONY: help demo test setup lint ruff mypy front format test-agents test-podman test-faults soak bench wheel lock clean image check-node system-packages

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(VENV)/.demo
	@$(VENV)/bin/jupyter acp demo

# pytest always runs and its summary comes last; what the linters found is in the exit status
test: setup image
	@lint=0; $(MAKE) lint || { lint=1; echo "LINT FAILED (above); the tests run all the same" >&2; }; \
	$(PY) -m pytest -m "not agents" $(ARGS) && [ $$lint -eq 0 ]

setup: system-packages $(VENV)/.test $(PEERS)

lint: $(VENV)/.test
	@$(MAKE) -k ruff mypy front

ruff: $(VENV)/.test
	$(PY) -m ruff check . && $(PY) -m ruff format --check .

mypy: $(VENV)/.test
	$(PY) -m mypy

# prettier, tsc and the TypeScript tests
front: $(VENV)/.test
	$(JLPM) run lint:check
	$(JLPM) run test

format: $(VENV)/.test
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(JLPM) run lint

# real agents (codex-acp, claude, fast-agent), in containers too, against a local stand-in for their model's service: no
# key, no account
test-agents: setup image $(REAL_AGENTS) $(FAST_AGENT)/.installed
	$(PY) -m pytest -m agents $(ARGS)

# projects in real containers; part of make test too. Without a podman that works each is skipped, and says why
test-podman: setup image
	$(PY) -m pytest -m "podman and not agents" $(ARGS)

# kill -9 of server, agent and runner at random moments: FAULT_SEEDS of them, from FAULT_FIRST on; MODEL_EXAMPLES
# random stories of turns, those of MODEL_SEED
test-faults: setup
	FAULT_SEEDS=$${FAULT_SEEDS:-200} MODEL_EXAMPLES=$${MODEL_EXAMPLES:-150} \
		$(PY) -m pytest tests/faults/test_kills.py tests/test_turns_model.py $(ARGS)

# 16 sessions under random faults for SOAK_MINUTES; memory and descriptors of the server are printed
soak: setup
	SOAK_MINUTES=$${SOAK_MINUTES:-30} $(PY) -m pytest -s tests/faults/test_soak.py $(ARGS)

bench: $(VENV)/.test
	$(PY) -m benchmarks $(ARGS)

# from clean sources, in an environment of its own, as a release is built
wheel: check-node $(VENV)/.created
	rm -rf jupyter_acp/labextension labextension/lib dist
	$(PIP) wheel --no-deps --wheel-dir dist .

# those of the image of projects for the oldest Python that one may have: Debian's
lock: $(VENV)/.test
	@{ sed -n 's/^#/#/p' $(PINS); $(PIP) freeze --exclude-editable --exclude pip --exclude setuptools; } > $(PINS).new
	@mv $(PINS).new $(PINS)
	@mkdir -p build
	@SKIP_JUPYTER_BUILDER=1 $(PIP) install -q --dry-run --ignore-installed --no-build-isolation --only-binary :all: \
		--python-version 3.11.2 --target build/none --report build/image.json . ipykernel
	@{ sed -n 's/^#/#/p' $(IMAGE_PINS); $(PY) scripts/pins.py build/image.json; } > $(IMAGE_PINS).new
	@mv $(IMAGE_PINS).new $(IMAGE_PINS)

clean:
	rm -rf $(VENV) labextension/node_modules labextension/lib jupyter_acp/labextension build dist $(dir $(PEERS) $(REAL_AGENTS)) $(FAST_AGENT)

# --- environment, by stamp files ---

check-node:
	@scripts/check_node.sh

system-packages:
	@scripts/system_packages.sh

# what the podman tests run in. Where there is no podman that works, or the image cannot be built, they say so themselves
image: system-packages $(VENV)/.test
	@if containers/podman_conf.sh build/containers >/dev/null 2>&1; then containers/build.sh >/dev/null || true; fi

$(VENV)/.created: $(PINS)
	@echo "Making $(VENV)"
	@python=$$(scripts/find_python.sh) && "$$python" -m venv $(VENV)
	@$(PIP) install -q -c $(PINS) "hatchling>=1.27" "hatch-jupyter-builder>=0.10" "jupyter-builder>=1.3,<2"
	@touch $@

labextension/node_modules/.installed: $(VENV)/.created labextension/package.json $(wildcard labextension/yarn.lock labextension/.yarnrc.yml) | check-node
	@echo "Installing what builds the panel into labextension/node_modules"
	@$(JLPM) install --immutable >../$(VENV)/jlpm.log 2>&1 || { cat ../$(VENV)/jlpm.log >&2; exit 1; }
	@touch $@

$(BUILT): labextension/node_modules/.installed $(FRONT)
	@echo "Building the panel"
	@rm -rf jupyter_acp/labextension
	@$(JLPM) run build:prod
	@touch $@

$(VENV)/.demo: pyproject.toml install.json $(BUILT)
	@echo "Installing jupyter_acp and JupyterLab into $(VENV)"
	@SKIP_JUPYTER_BUILDER=1 $(PIP) install -q -c $(PINS) --no-build-isolation -e ".[lab]"
	@touch $@

$(VENV)/.test: pyproject.toml install.json $(BUILT)
	@echo "Installing jupyter_acp and what its tests need into $(VENV)"
	@SKIP_JUPYTER_BUILDER=1 $(PIP) install -q -c $(PINS) --no-build-isolation -e ".[dev]"
	@touch $@ $(VENV)/.demo

$(FAST_AGENT)/.installed: tests/agents_real/fast-agent.txt
	@echo "Installing fast-agent for the tests into $(FAST_AGENT)"
	@rm -rf $(FAST_AGENT)
	@python=$$(PYTHON=$(FAST_AGENT_PYTHON) scripts/find_python.sh 3.12 FAST_AGENT_PYTHON) && "$$python" -m venv $(FAST_AGENT)
	@$(FAST_AGENT)/bin/python -m pip install -q -c $< fast-agent-mcp
	@touch $@

%/node_modules/.installed: %/package.json | check-node
	@echo "Installing $* for the tests"
	@cd $* && if [ -f package-lock.json ]; then npm ci --no-audit --no-fund; else npm install --no-package-lock --no-audit --no-fund; fi
	@touch $@
