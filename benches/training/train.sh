#!/bin/sh
# train.sh: lets clang watch libopus at the gateway's work, and leaves what it saw where engine/libopus.cmake takes it from. Then nothing
# that another compiler, or clang without that knowledge, has made of libopus is left in target/release. About a minute, once.
#
# Needs clang, its llvm-profdata and its profiling runtime (tests/install.sh build); without them libopus is built untrained.
set -eu
cd "$(dirname "$0")/../.."

[ "$(uname -m)" = x86_64 ] || exit 0
forget_release() { cargo clean --quiet --locked --release -p opusic-sys; }

train() {
    echo "libopus: $compiler watches it at work"
    rm -f target/training/libopus.profraw
    engine/libopus/forget.sh target/training/release
    LIBOPUS_TRAINING=1 RUSTFLAGS="-C link-arg=-Wl,-u,__llvm_profile_runtime -C link-arg=$runtime" \
        cargo build --quiet --locked --release -p training --target-dir target/training
    LLVM_PROFILE_FILE=target/training/libopus.profraw target/training/release/training
    "$profdata" merge -o "$profile" target/training/libopus.profraw
    forget_release
}

profile=
if [ -n "${CC:-}" ]; then
    compiler=$(command -v "$CC")
else
    compiler=$(cmake -P engine/libopus.cmake 2>&1)
fi
if [ -z "$compiler" ]; then
    echo "libopus: no clang here, the system's compiler builds it" >&2
    compiler=$(command -v cc)
elif [ -z "${CC:-}" ]; then
    profile=target/libopus-$("$compiler" -dumpversion).profdata
    profdata=$("$compiler" -print-prog-name=llvm-profdata)
    runtime=$("$compiler" -print-resource-dir)/lib/linux/libclang_rt.profile-x86_64.a
    if ! command -v "$profdata" >/dev/null || [ ! -e "$runtime" ]; then
        echo "libopus: $compiler lacks llvm-profdata or $runtime, and builds it untrained" >&2
        profile=
    elif [ ! -e "$profile" ] || [ -n "$(find Cargo.lock benches/training/main.rs engine/libopus/*.[ch] -newer "$profile")" ]; then
        train
    fi
fi

engine/libopus/forget.sh target/release
for flags in target/release/build/opusic-sys-*/out/build/CMakeFiles/opus.dir/flags.make; do
    [ -e "$flags" ] || continue
    if ! grep -qx "# compile C with $compiler" "$flags" || ! grep -qF "$profile" "$flags"; then
        forget_release
        break
    fi
done
