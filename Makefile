# What a person runs. `make help` says what there is; `.ci/run` is what continuous integration runs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Namespaces and XDP need root.
ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

# How `make bench` measures: more of its options, such as BENCH="--runs 3 --nice -10" (`throughway-bench run --help`).
BENCH ?=

.PHONY: help build install uninstall demo test test-modes vm-test bench bench-short bench-nic bench-baseline bench-micro bench-docs bench-programs lint schema ebpf fuzz

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: ## The release binary: target/release/throughway
	packaging/install-packages.sh build
	$(CARGO) build --release --package throughway

# What is installed, and below which root (for packages).
BINARY ?= $(TARGET)/release/throughway
DESTDIR ?=
UNIT := $(DESTDIR)/usr/lib/systemd/system/throughway.service
DOC := $(DESTDIR)/usr/share/doc/throughway

install: ## What `make build` has made, systemd unit, documents and examples into the system, or below DESTDIR (as root)
	@[ -x $(BINARY) ] || { echo "there is no $(BINARY): make build"; exit 2; }
	install -D -m 755 $(BINARY) $(DESTDIR)/usr/bin/throughway
	install -D -m 644 packaging/throughway.service $(UNIT)
	install -d -m 755 $(DOC)/examples $(DESTDIR)/etc/throughway
	install -m 644 README.md CHANGELOG.md config/schema.json $(DOC)
	install -m 644 config/examples/* $(DOC)/examples
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
	@echo "Now write $(DESTDIR)/etc/throughway/throughway.yaml (examples are in $(DOC)/examples), ask \`throughway doctor\` about it,"
	@echo "and: systemctl enable --now throughway"

uninstall: ## What `make install` has put there; the configuration stays
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl disable --now throughway || true; fi
	rm -rf $(DESTDIR)/usr/bin/throughway $(UNIT) $(DOC)
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi

demo: build ## Real traffic through Throughway in network namespaces, with a report; leaves nothing behind
	packaging/install-packages.sh demo
	$(ROOT) $(TARGET)/release/throughway lab demo config/examples/edge.yaml

test: ## Every test; as root the privileged ones too
	packaging/install-packages.sh build
	packaging/install-packages.sh test
	@mkdir -p $(TARGET)
	@# The binary is the one that is built for the tests. Written down, so that what was skipped can be said at the end, after pages of results.
	status=0; THROUGHWAY_BINARY=$${THROUGHWAY_BINARY:-$(abspath $(TARGET))/debug/throughway} \
	$(CARGO) test --workspace --no-fail-fast 2>&1 | tee $(TARGET)/test.log || status=$$?; \
	skipped=$$(grep -c '^skipped: ' $(TARGET)/test.log || true); \
	failed=$$(grep -cE '^test .* FAILED$$' $(TARGET)/test.log || true); \
	echo; \
	if [ "$$failed" != 0 ]; then echo "$$failed failed:"; grep -E '^test .* FAILED$$' $(TARGET)/test.log; fi; \
	if [ "$$skipped" = 0 ]; then echo "Nothing was skipped."; else \
	    grep '^skipped: ' $(TARGET)/test.log; \
	    echo "$$skipped tests were skipped, for the reasons above. As root (sudo -E make test) all of them run."; fi; \
	exit $$status

# Those that start the service in a lab.
IN_LABS = $(patsubst tests/tests/%.rs,--test %,$(filter-out %/house.rs %/cli.rs %/replay.rs %/pktgen.rs,$(wildcard tests/tests/*.rs)))

test-modes: ## Every test over namespaces with the fast path off, auto and eager (half an hour, as root)
	packaging/install-packages.sh build
	packaging/install-packages.sh test
	$(CARGO) build --workspace --bin throughway
	status=0; for mode in off auto eager; do \
	    echo "=== fast-path: $$mode"; \
	    THROUGHWAY_TEST_FAST_PATH=$$mode THROUGHWAY_REQUIRE_PRIVILEGED=1 \
	    THROUGHWAY_BINARY=$${THROUGHWAY_BINARY:-$(abspath $(TARGET))/debug/throughway} \
	    $(CARGO) test --workspace $(IN_LABS) --no-fail-fast -- --test-threads 1 || status=$$?; \
	done; exit $$status

# What the XDP program does is fuzzed there, too, by those two tests of the data plane. Cargo names the examples as well, which are none.
VM_TESTS = $(CARGO) test --no-run --message-format=json --package throughway-xdp --package throughway-pktgen && \
    $(CARGO) test --no-run --message-format=json --package throughway --test fast_differential --test fast_handed_over

vm-test: $(if $(VM_BINARY),,build) ## Debian's kernel 6.1 in a virtual machine: its verifier, its pktgen beside ours, the XDP tests
	packaging/install-packages.sh vm
	tests/vm/run.sh $(or $(VM_BINARY),$(TARGET)/release/throughway) $$({ $(VM_TESTS); } | sed -n 's/.*"executable":"\([^"]*\/deps\/[^"]*\)".*/\1/p')

# The programs that measure and are measured, and the path of the built bench `chain` in target/bench/chain. What only
# starts the others and counts needs no optimisation.
bench-programs:
	packaging/install-packages.sh build
	$(CARGO) build --package throughway-benches --bin throughway-bench
	@mkdir -p $(TARGET)/bench
	@# In one command: each is linked by one thread for minutes, and the two go beside each other.
	$(CARGO) build --release --package throughway --bin throughway --package throughway-benches --bench chain \
	    --message-format=json-render-diagnostics \
	    | sed -n 's/.*"executable":"\([^"]*chain-[^"]*\)".*/\1/p' | tail -n 1 >$(TARGET)/bench/chain

BENCH_RUN = $(ROOT) $(TARGET)/debug/throughway-bench run --throughway $(TARGET)/release/throughway --report $(TARGET)/bench
BENCH_COUNT = $(TARGET)/debug/throughway-bench count --bench "$$(cat $(TARGET)/bench/chain)" --report $(TARGET)/bench

bench: bench-programs ## Side by side with the kernel, DPDK and bare XDP, in namespaces: target/bench/report.md (half an hour)
	packaging/install-packages.sh bench
	$(BENCH_COUNT) || true
	$(BENCH_RUN) --micro $(TARGET)/criterion $(BENCH)

bench-short: bench-programs ## The same against the kernel alone, held against benches/*.json (two minutes)
	packaging/install-packages.sh bench-short
	$(BENCH_COUNT)
	$(BENCH_RUN) --short --generator own --baseline benches/baseline.json $(BENCH)

bench-nic: bench-programs ## Throughway on real ports, with an external generator: IN=eth1 OUT=eth2
	@if [ -z "$(IN)" ] || [ -z "$(OUT)" ]; then echo "say which ports: make bench-nic IN=eth1 OUT=eth2"; exit 2; fi
	$(ROOT) $(TARGET)/debug/throughway-bench nic --throughway $(TARGET)/release/throughway --in $(IN) --out $(OUT) $(BENCH)

bench-baseline: bench-programs ## Write what bench-short holds anew: benches/baseline.json, benches/instructions.json
	packaging/install-packages.sh bench-short
	$(BENCH_COUNT) --write
	$(BENCH_RUN) --short --generator own --runs 5 --baseline benches/baseline.json --write $(BENCH)

# Linked by `thin`: with the release profile's `fat`, each of the nine programs takes minutes.
bench-micro: ## Microbenchmarks (three minutes); the next `make bench` takes them into its report
	packaging/install-packages.sh build
	CARGO_PROFILE_BENCH_LTO=thin CARGO_PROFILE_BENCH_CODEGEN_UNITS=4 $(CARGO) bench --package throughway-microbenches

bench-docs: ## Copy report and charts of the last `make bench` to docs/bench, to be committed
	@[ -f $(TARGET)/bench/report.md ] || { echo "there is no $(TARGET)/bench/report.md: make bench"; exit 2; }
	rm -rf docs/bench
	mkdir -p docs/bench
	cp $(TARGET)/bench/report.md $(TARGET)/bench/report.json $(TARGET)/bench/*.svg docs/bench
	cp $(TARGET)/bench/*.png docs/bench 2>/dev/null || true

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
