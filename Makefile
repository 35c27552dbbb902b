# What a person runs. `make help` says what there is; `.ci/run` is what continuous integration runs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Namespaces and XDP need root.
ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help build demo test vm-test bench lint schema ebpf fuzz

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: ## The release binary: target/release/throughway
	packaging/install-packages.sh build
	$(CARGO) build --release --package throughway

demo: build ## Real traffic through Throughway in network namespaces, with a report; leaves nothing behind
	packaging/install-packages.sh demo
	$(ROOT) $(TARGET)/release/throughway lab demo config/examples/edge.yaml

test: ## Every test; as root the privileged ones too
	packaging/install-packages.sh build
	packaging/install-packages.sh test
	@mkdir -p $(TARGET)
	@# Written down, so that what was skipped can be said at the end, after pages of results.
	status=0; $(CARGO) test --workspace --no-fail-fast 2>&1 | tee $(TARGET)/test.log || status=$$?; \
	skipped=$$(grep -c '^skipped: ' $(TARGET)/test.log || true); \
	failed=$$(grep -cE '^test .* FAILED$$' $(TARGET)/test.log || true); \
	echo; \
	if [ "$$failed" != 0 ]; then echo "$$failed failed:"; grep -E '^test .* FAILED$$' $(TARGET)/test.log; fi; \
	if [ "$$skipped" = 0 ]; then echo "Nothing was skipped."; else \
	    grep '^skipped: ' $(TARGET)/test.log; \
	    echo "$$skipped tests were skipped, for the reasons above. As root (sudo -E make test) all of them run."; fi; \
	exit $$status

vm-test: build ## Debian's kernel 6.1 in a virtual machine: its verifier, its pktgen beside ours, the XDP tests
	packaging/install-packages.sh vm
	tests/vm/run.sh $(TARGET)/release/throughway $$($(CARGO) test --package throughway-xdp --package throughway-pktgen \
	    --no-run --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')

bench: ## The benchmarks
	packaging/install-packages.sh build
	$(CARGO) bench --package throughway-benches

lint: ## Format, clippy, licences and bans
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null 2>&1 || $(CARGO) deny --version >/dev/null 2>&1; then \
	    $(CARGO) deny --all-features check bans licenses sources; \
	else echo "cargo-deny is not installed: licences and bans were not checked (cargo install --locked cargo-deny)"; fi

schema: ## Write config/schema.json anew
	$(CARGO) run --quiet --package throughway -- schema > config/schema.json.new
	mv config/schema.json.new config/schema.json

ebpf: ## Rebuild the XDP programs from source
	packaging/install-packages.sh ebpf
	ebpf/build.sh

fuzz: ## Ten minutes of arbitrary frames (needs nightly and cargo-fuzz)
	cd tests && $(CARGO) +nightly fuzz run frame -- -max_total_time=600
