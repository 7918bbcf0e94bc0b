# `make check` is what CI runs. Everything else here is a part of it, or takes longer.

.PHONY: help demo keda-cases keda-migrate test check fmt lint doc advisories licences notices manifests shipped versions dist image keda keda-long presets presets-python presets-states presets-kill browser chaos faults truth fuzz load bench bench-notify soak

help:            ## shows this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo:            ## plays the whole story without a cluster, in less than a minute after the build
	scripts/postgres
	cargo build --locked --bins --example keda
	cargo run --locked --quiet --example keda

test:            ## runs all tests; installs PostgreSQL's programs if there are none; PG_VERSION=13 to 18 takes that version's
	scripts/test

keda-cases:      ## draws the cases of tests/keda anew with KEDA's own code, and compares; needs Go
	cd tests/keda && go run -trimpath ./cases | cmp - cases.jsonl

keda-migrate:    ## holds what clapometer migrate makes of triggers to KEDA's own postgresql scaler; needs Go
	cd tests/keda && go build -trimpath -o ../../target/keda-builtin ./builtin
	scripts/postgres && CLAPOMETER_KEDA_BUILTIN=$(CURDIR)/target/keda-builtin cargo test --locked --test it migrate::what_becomes_of_a_trigger

check:           ## everything CI decides by, and how many seconds each part takes
	scripts/stages fmt lint doc advisories licences shipped test versions presets-python load

fmt:             ## checks the formatting
	cargo fmt --check

lint:            ## clippy, warnings are errors
	cargo clippy --locked --all-targets -- -D warnings

doc:             ## builds the documentation, warnings are errors
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items

advisories:      ## Cargo.lock has no version below the floors of known advisories; without network
	scripts/advisories

licences:        ## every crate has an allowed licence, and THIRD-PARTY-NOTICES is up to date
	scripts/licences --check

notices:         ## writes THIRD-PARTY-NOTICES, which the images carry
	scripts/licences

manifests:       ## renders the chart into deploy/kustomize, then lints and checks everything under deploy/
	scripts/manifests

shipped:         ## the same checks, and fails if something rendered is out of date
	scripts/manifests --check

versions:        ## the tests that a version of PostgreSQL can break, on the oldest and the newest that are supported
	scripts/versions 13 18

dist:            ## packs static executables, completions, man pages, licences and checksums into a tarball in target/dist
	scripts/dist

image:           ## builds both images with buildah and runs them (root, Debian)
	scripts/image

keda:            ## runs everything on the real KEDA and writes what was seen into docs/keda.md; needs root, and Go, which builds for 40 minutes once
	scripts/keda --write

keda-long:       ## the same, and the scenarios that take long: about an hour; writes what was seen, too
	scripts/keda --long --write

browser:         ## looks at the status page in Chromium, which root gets from Debian; half a minute after the build
	scripts/browser

presets:         ## holds presets to the real libraries of PyPI, npm, Go and crates.io: what they hand out, what clapometer counts; eight minutes
	scripts/presets

presets-python:  ## the same for the three of PyPI, in one environment; needs Python 3.12; three minutes, of which two build and install
	scripts/presets python

presets-states:  ## holds seven presets to their libraries' own statements, on rows in random states (STATES_TABLES tables of each, 100)
	scripts/presets states

presets-kill:    ## kills real workers of seven libraries at random for KILLS_SECONDS (300), all side by side, and holds their presets to it
	scripts/presets kill

chaos:           ## kills postgres-batch and PostgreSQL at random for CHAOS_CLAPS claps (10000), random seeds
	CHAOS_CLAPS=$${CHAOS_CLAPS:-10000} cargo test --locked --test it batch::chaos -- --nocapture

faults:          ## makes every named fault and prints what was required, what was seen and how soon it healed
	scripts/postgres
	ulimit -n $$(ulimit -Hn) && cargo test --locked --test it oracle::every_named_fault -- --nocapture

truth:           ## random faults until TRUTH_ANSWERS (1000000) answers were held against the table; TRUTH_SEED repeats a run
	scripts/postgres
	ulimit -n $$(ulimit -Hn) && TRUTH_ANSWERS=$${TRUTH_ANSWERS:-1000000} TRUTH_SEED=$${TRUTH_SEED:-$$(date +%s)} \
	    cargo test --locked --release --test it oracle:: -- --nocapture --test-threads 1 --skip every_named_fault

fuzz:            ## libFuzzer, led by coverage, for FUZZ_SECONDS (300) on each target of tests/fuzz; needs a C++ compiler
	scripts/fuzz

load:            ## KEDA's whole fleet, then a short soak, in two minutes; fails on a broken invariant, never on a time
	scripts/postgres
	cargo test --locked --bench load -- check
	cargo test --locked --bench load -- soak --minutes 1

bench:           ## measures what docs/benchmarks.md tells, and writes it anew; half an hour
	scripts/bench

bench-notify:    ## measures what the notify trigger costs the writers of its table; two minutes on a quiet machine
	scripts/postgres
	cargo bench --locked --bench load -- inserts

soak:            ## half an hour of load and faults; then nothing may have grown
	scripts/postgres
	cargo bench --locked --bench load -- soak
