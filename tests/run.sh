#!/bin/sh
# run.sh: every check of the project, in the order in which a mistake shows soonest. Prints cargo's own result lines
# and the ten slowest tests.
set -eu
cd "$(dirname "$0")/.."
log=target/test.log
mkdir -p target

step() {
    started=$(date +%s)
    echo "== $*"
    "$@"
    echo "== took $(($(date +%s) - started)) s"
}

step cargo fmt --all --check
step target/tools/bin/cargo-deny --log-level error check licenses bans sources
step cargo clippy -q --locked --workspace --all-targets -- -D warnings
step env RUSTDOCFLAGS="-D warnings" cargo doc -q --locked --workspace --no-deps --document-private-items
step cargo build -q --locked --workspace --bins --tests --examples
step cargo build -q --locked -p fuzz --features libfuzzer
# Each bench once, without measuring: it must run.
step cargo test -q --locked -p benches --benches

echo "== cargo test"
started=$(date +%s)
status=0
cargo --config "target.'cfg(all())'.runner = '$PWD/tests/runner.sh'" test --locked --workspace --no-fail-fast >"$log" 2>&1 || status=$?
grep -vE '^test .* \.\.\. ok|^$|^running 0 tests|^     Running |^warning: unused' "$log" || true
echo "== took $(($(date +%s) - started)) s"
echo "== the ten slowest tests"
sed -nE 's/^test (.*) \.\.\. [a-zA-Z]+ <([0-9.]+)s>$/\2 s  \1/p' "$log" | sort -rn | head -n 10
exit "$status"
