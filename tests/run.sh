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
step tests/arm.sh simd
step target/tools/bin/cargo-deny --log-level error check licenses bans sources
step engine/libopus/forget.sh target/debug
# One set of features for all that follows: another would build every dependency again.
all="--locked --workspace --features fuzz/libfuzzer"
# shellcheck disable=SC2086
step cargo clippy -q $all --all-targets -- -D warnings
# shellcheck disable=SC2086
step env RUSTDOCFLAGS="-D warnings" cargo doc -q $all --no-deps --document-private-items
# shellcheck disable=SC2086
step cargo build -q $all --bins --tests --examples

echo "== cargo test"
started=$(date +%s)
status=0
# Benches run once, without measuring. shellcheck disable=SC2086
cargo --config "target.'cfg(all())'.runner = '$PWD/tests/runner.sh'" test $all --no-fail-fast >"$log" 2>&1 || status=$?
grep -vE '^Testing |^Success|^test .* \.\.\. ok|^$|^running 0 tests|^     Running |^warning: unused' "$log" || true
echo "== took $(($(date +%s) - started)) s"
echo "== the ten slowest tests"
sed -nE 's/^test (.*) \.\.\. [a-zA-Z]+ <([0-9.]+)s>$/\2 s  \1/p' "$log" | sort -rn | head -n 10
exit "$status"
