# Two commands do everything: `make demo` and `make test`.

.PHONY: demo test build bench density quality arm audit clean

# Installs what is missing, builds, places one real call, then serves the caller's page (DEMO_ONCE=1: exits instead).
demo:
	tests/install.sh demo
	cargo build --release --locked -p control -p tandem-standin
	target/release/tandem-standin demo

# Installs what is missing, runs every check and every test. Run as root: some tests make network namespaces.
test:
	tests/install.sh test
	tests/run.sh

# The shipped program. libopus is built by the newest clang, after it watched libopus at work: a fourteenth of a transcoded call.
# What that needs is installed where it may be; without it the system's compiler does. CC=gcc: asked for. CPU=x86-64-v3 or CPU=native
# builds it, libopus included, for such processors only. DEEP_PLC=1 links libopus's networks: better concealment, DRED; 2 MB more, 160 KB
# more a call (docs/decisions.md).
build:
	-$(if $(filter command environment,$(origin CC)),,tests/install.sh build)
	benches/training/train.sh
	$(if $(CPU),RUSTFLAGS="-C target-cpu=$(CPU)") cargo build --release --locked -p control $(if $(DEEP_PLC),--features deep-plc)

# What each stage of a call costs.
bench:
	cargo bench --locked -p benches

# How many calls one core carries, against the least that is possible. About a quarter of an hour on a quiet machine of two cores or more;
# PART="transcoded memory" runs some of it, DENSITY_PROFILE=wideband-20k or fullband-32k half of it, DENSITY_RIVAL=1 measures Debian's
# rtpengine too (benches/density/main.rs says more).
density:
	tests/install.sh test
	$(if $(DENSITY_RIVAL),tests/install.sh rival)
	-$(if $(filter command environment,$(origin CC)),,tests/install.sh build)
	benches/training/train.sh
	cargo build --release --locked -p control -p benches --bin tandem --bin density --bin counted
	target/release/density $(PART)

# How it sounds on bad networks: about a minute; QUALITY=full measures the whole matrix and draws the charts, QUALITY=deep what
# libopus's networks gain.
QUALITY ?= quick
quality:
	tests/install.sh quality
	cargo build --locked -p benches --bin quality $(if $(filter deep,$(QUALITY)),--features deep-plc)
	benches/quality/speech.sh target/quality/speech
	target/debug/quality $(QUALITY) target/quality/speech target/quality/$(QUALITY)
	target/tools/quality/bin/python benches/quality/score.py target/quality/$(QUALITY) \
		$(if $(filter full deep,$(QUALITY)),benches/results,target/quality/$(QUALITY)) $(QUALITY)

# The program for 64-bit ARM on a machine that is none: builds it, places a call through it and runs the engine's tests under qemu, counts
# instructions. A quarter of an hour on two cores; `make test` runs the vector code alone (tests/arm.sh says more).
arm:
	tests/install.sh arm
	tests/arm.sh simd
	tests/arm.sh count
	tests/arm.sh all

# Known vulnerabilities of what is linked in. Fetches the advisory database, so it needs the network.
audit:
	target/tools/bin/cargo-deny check advisories

clean:
	cargo clean
