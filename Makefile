# The doors: build, demo, test, bench, soak, stress, apps. Each installs what is missing first.
#
# CARGO_TARGET_DIR may name a directory outside the clone: RocksDB is then compiled once for all
# clones, as .ci/run does.
#
# The first cargo command compiles RocksDB for many minutes: `with-progress` says how far it is.
#
# One profile (release) and whole-workspace builds everywhere: another profile or another set of
# features would compile RocksDB again. clang++ compiles it (.cargo/config.toml).

CARGO ?= cargo
BUILD := scripts/with-progress $(CARGO)
CARGO_TARGET_DIR ?= target
# Absolute, because tests run in the directories of their crates.
ifeq ($(filter /%,$(firstword $(CARGO_TARGET_DIR))),)
override CARGO_TARGET_DIR := $(CURDIR)/$(CARGO_TARGET_DIR)
endif
export CARGO_TARGET_DIR
export POOL_SOURCES := $(CURDIR)
PROFILE := --release --locked --workspace
BIN := $(CARGO_TARGET_DIR)/release

.PHONY: build demo test bench soak stress apps apps-check lint packages amdv install clean help

help:
	@echo "make build   release binaries in $(BIN)"
	@echo "make demo    link, push, mount, run, measure, collect: the whole job, with a table"
	@echo "make test    formatting, lints, licences, unit, integration and end-to-end tests"
	@echo "make bench [BENCH=name]   measurements, written to target/bench/NAME.json"
	@echo "make soak [ROUNDS=200]    long seeded tests"
	@echo "make stress [ROUNDS=20]   the suite again and again, every other time beside other load"
	@echo "make apps [APPS='nginx redis']   real programs, built from Debian's sources by pool link"
	@echo "make apps-check [APPS=...]   each of them natively and on both platforms, with its client"
	@echo "make install [PREFIX=/usr/local] [DESTDIR=]   programs and manual pages"

packages:
	@scripts/install-packages

build: packages
	$(BUILD) build $(PROFILE)

lint: packages
	$(CARGO) fmt --all --check
	$(BUILD) clippy $(PROFILE) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(PROFILE) --no-deps --quiet
	@scripts/check-dependencies

# Guests also run under AMD-V, which QEMU emulates.
amdv:
	@scripts/install-amdv

test: lint build amdv
	scripts/run-tests

demo: build
	"$(BIN)/pool-bench" demo --out target/demo

bench: build
	"$(BIN)/pool-bench" $(or $(BENCH),all) --out target/bench

soak: build amdv
	POOL_SOAK_ROUNDS=$(or $(ROUNDS),200) scripts/run-tests

stress: build amdv
	scripts/stress $(or $(ROUNDS),20)

apps: build
	apps/build $(APPS)

# What could not be built does not keep the others from being checked.
apps-check: build
	apps/build $(APPS); built=$$?; apps/check $(APPS) && exit $$built

# mount -t fuse.poolfs finds poolfs in /usr/local/bin and /usr/bin.
PREFIX ?= /usr/local
install: build
	install -d "$(DESTDIR)$(PREFIX)/bin" "$(DESTDIR)$(PREFIX)/share/man/man1" \
		"$(DESTDIR)$(PREFIX)/share/man/man8"
	for program in pool poolsvc poolfs poolvmm; do \
		install "$(BIN)/$$program" "$(DESTDIR)$(PREFIX)/bin" || exit; done
	umask 022 && "$(BIN)/pool" man "$(DESTDIR)$(PREFIX)/share/man/man1"
	install -m 644 vmm/poolvmm.1 "$(DESTDIR)$(PREFIX)/share/man/man1"
	install -m 644 poolfs/poolfs.8 poolsvc/poolsvc.8 "$(DESTDIR)$(PREFIX)/share/man/man8"

clean:
	$(CARGO) clean
