#!/bin/sh
# compare.sh [ROUNDS]: what libopus costs as `make build` compiles it, against gcc: microseconds of CPU a frame, the
# median of 15 rounds by turns.
set -eu
cd "$(dirname "$0")/../.."
rounds=${1:-15}
benches/training/train.sh
engine/libopus/forget.sh target/compare/gcc/release
CC=gcc cargo build --quiet --locked --release -p training --target-dir target/compare/gcc
# Whatever was compiled before the training was new.
cargo clean --quiet --locked --release -p opusic-sys --target-dir target/compare/trained
cargo build --quiet --locked --release -p training --target-dir target/compare/trained
rm -f target/compare/*.times
for _ in $(seq "$rounds"); do
    for build in gcc trained; do "target/compare/$build/release/training" time >>"target/compare/$build.times"; done
done
echo "         encode 0        1        5   decode  floats  fullband"
for build in gcc trained; do
    printf '%-8s' "$build"
    for column in 1 2 3 4 5 6; do
        cut -d' ' -f"$column" "target/compare/$build.times" | sort -n | sed -n "$(((rounds + 1) / 2))p" | awk '{ printf "%9.2f", $1 }'
    done
    echo
done
