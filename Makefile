# Two commands do everything: `make demo` and `make test`.

.PHONY: demo test build bench audit clean

# Installs what is missing, builds, places one real call, then serves the caller's page (DEMO_ONCE=1: exits instead).
demo:
	tests/install.sh demo
	cargo build --release --locked -p control -p tandem-standin
	target/release/tandem-standin demo

# Installs what is missing, runs every check and every test. Run as root: some tests make network namespaces.
test:
	tests/install.sh test
	tests/run.sh

# The shipped program.
build:
	cargo build --release --locked -p control

# What each stage of a call costs.
bench:
	cargo bench --locked -p benches

# Known vulnerabilities of what is linked in. Fetches the advisory database, so it needs the network.
audit:
	target/tools/bin/cargo-deny check advisories

clean:
	cargo clean
