# kserved from a fresh clone: `make serve` starts it, `make test` proves it. `make help` lists the rest.
#
# KSERVED_CACHE=DIR keeps everything that is slow to get outside the clone: the ONNX Runtime wheel, compiled
# dependencies, the Python environments of the tests, and the models that `make serve` fetches. A second clean clone then
# starts where the first one ended. With CI=true the folder is ~/.cache/kserved unless one is given.

SHELL := /bin/bash -eu -o pipefail
.DELETE_ON_ERROR:
.NOTPARALLEL:

ifeq ($(CI),true)
KSERVED_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kserved
endif

ifneq ($(strip $(KSERVED_CACHE)),)
override KSERVED_CACHE := $(abspath $(KSERVED_CACHE))
export KSERVED_CACHE
CARGO_TARGET_DIR ?= $(KSERVED_CACHE)/target
endif

TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
export CARGO_TARGET_DIR := $(TARGET)

CARGO ?= cargo
PYTHON ?= python3
export CARGO PYTHON

# `cargo --locked` refuses a Cargo.lock that does not fit Cargo.toml instead of writing a new one.
LOCKED := --locked
CLIENTS := tests/clients
RUNNER := $(shell command -v cargo-nextest >/dev/null 2>&1 && echo nextest run || echo test)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

.PHONY: setup
setup: ## fetch the pinned ONNX Runtime library into lib/ (once; needs the network only then)
	@scripts/setup.sh

.PHONY: build
build: setup ## compile target/release/kserved
	$(PYTHON) scripts/build.py

.PHONY: profile
profile: setup ## record what the compiler is to make fast (a quarter of an hour; for a new compiler, or after much has changed)
	$(PYTHON) scripts/record_profile.py

.PHONY: cuda
cuda: setup ## compile target/release/kserved-cuda, which uses NVIDIA GPUs (fetches their compiler; half an hour the first time)
	$(PYTHON) scripts/cuda.py $(CARGO) build $(LOCKED) --release --features cuda --bin kserved-cuda
	@scripts/place_binary.sh release kserved-cuda

.PHONY: gpu-check
gpu-check: ## hold the GPU's answers against the CPU's with target/release/kserved-cuda, and measure both (GPU_CHECK_ARGS)
	@python="$$($(PYTHON) scripts/environment.py $(CLIENTS)/requirements.txt)"; \
	"$$python" scripts/gpu_check.py $(GPU_CHECK_ARGS)

.PHONY: debug
debug: setup
	$(CARGO) build $(LOCKED) --bin kserved
	@scripts/place_binary.sh debug

.PHONY: serve
serve: build ## set up, compile, and serve models/ on http://127.0.0.1:8080
	exec env $(if $(KSERVED_CACHE),KSERVED_CACHE=$(KSERVED_CACHE)/models) target/release/kserved serve $(ARGS)

.PHONY: test
test: test-clients ## set up and run every test: real clients first, then the Rust tests with their summary
	$(CARGO) $(RUNNER) $(LOCKED)

.PHONY: test-clients
test-clients: debug ## drive the debug build from outside: Python clients, real models, raw sockets
	@python="$$($(PYTHON) scripts/environment.py $(CLIENTS)/requirements.txt)"; \
	KSERVED_BIN="$(CURDIR)/target/debug/kserved" "$$python" -m pytest $(CLIENTS) $(PYTEST_ARGS)

.PHONY: lint
lint: ## formatting, clippy and documentation, warnings refused
	$(CARGO) fmt --check
	$(CARGO) clippy $(LOCKED) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(LOCKED) --no-deps

FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: ## feed damaged GGUF and safetensors headers for FUZZ_SECONDS=60 each (needs a nightly Rust and cargo-fuzz)
	@scripts/fuzz.sh $(FUZZ_SECONDS)

# llama.cpp comes with the environment of benches/serving/requirements.txt, the model as the tests have it.
define measure-writers
	@python="$$($(PYTHON) scripts/environment.py benches/serving/requirements.txt)"; \
	"$$python" benches/serving/$(1).py --kserved target/release/kserved $(BENCH_ARGS)
endef

.PHONY: bench
bench: build ## measure serving and write BENCHMARKS.md (BENCH_ARGS=--quick for a short run)
	$(CARGO) build $(LOCKED) --release --example echo
	@python="$$($(PYTHON) scripts/environment.py $(CLIENTS)/requirements.txt)"; \
	"$$python" benches/serving/bench.py --kserved target/release/kserved --echo "$(TARGET)/release/examples/echo" $(BENCH_ARGS)
	$(call measure-writers,generation)

# Each writes its own part of BENCHMARKS.md; BENCH_ARGS shortens or changes it, `--help` says how.
define measure
	@python="$$($(PYTHON) scripts/environment.py $(CLIENTS)/requirements.txt)"; \
	"$$python" benches/serving/$(1).py --kserved target/release/kserved $(BENCH_ARGS)
endef

.PHONY: bench-swap
bench-swap: build ## 1,000 swaps of a model under full load, 1,000 loads and unloads: failures, memory, threads, open files
	$(call measure,swap)

.PHONY: bench-overload
bench-overload: build ## goodput against offered load, up to ten times of what the machine can do (about 8 minutes)
	$(call measure,overload)

.PHONY: bench-density
bench-density: build ## 1,000 services in one folder, and 300 whose weights are three times the memory budget
	$(call measure,density)

.PHONY: bench-minilm
bench-minilm: build ## a sentence encoder with and without batching against ONNX Runtime in process
	$(call measure,minilm)

.PHONY: bench-embeddings
bench-embeddings: build ## embeddings over OpenAI's endpoint on Candle and ONNX against ONNX Runtime in process (and infinity and text-embeddings-inference, if given)
	$(call measure,embeddings)

.PHONY: bench-many
bench-many: build ## 10,000 resources in one folder: start, memory, and from an edited file to its new status
	$(call measure,many)

.PHONY: bench-shared-memory
bench-shared-memory: build ## a 13 MB picture through shared memory and over every wire against ONNX Runtime in process
	$(call measure,shared_memory)

.PHONY: bench-downloads
bench-downloads: build ## downloads over loopback against curl and boto3, and a start from the cache: rates, memory, times
	$(call measure,downloads)

.PHONY: bench-codecs
bench-codecs: setup ## reading and writing JSON and binary tensors against the fastest parser alone
	$(PYTHON) benches/serving/codecs.py

.PHONY: bench-load
bench-load: build ## models loaded the first time and from their kept optimised graphs, and ONNX Runtime alone with those
	$(call measure,loads)

.PHONY: bench-weights
bench-weights: build ## memory of four workers against one
	$(call measure,weights)

# `cargo bench --bench infer_path -- graph_path` measures the same without sockets.
.PHONY: bench-graph
bench-graph: build ## what a step of an InferenceGraph costs over calling its model
	$(call measure,graph)

.PHONY: bench-rivals
bench-rivals: build ## as bench, with MLServer in its own Python environment beside the others
	$(CARGO) build $(LOCKED) --release --example echo
	@python="$$($(PYTHON) scripts/environment.py $(CLIENTS)/requirements.txt)"; \
	mlserver="$$($(PYTHON) scripts/environment.py benches/serving/mlserver/requirements.txt)"; \
	"$$python" benches/serving/bench.py --kserved target/release/kserved --echo "$(TARGET)/release/examples/echo" \
		--mlserver "$$mlserver" $(BENCH_ARGS)

.PHONY: bench-generation
bench-generation: build ## a language model against llama.cpp's server: tokens per second, time to the first one, memory
	$(call measure-writers,generation)

.PHONY: bench-agreement
bench-agreement: build ## a language model and llama.cpp against its weights in double precision (some minutes)
	$(call measure-writers,agreement)

.PHONY: clean
clean: ## remove what was built here (the cache folder stays)
	rm -rf lib .cache .venv target
