#!/bin/sh
# arm.sh: what shows that tandem runs on 64-bit ARM, on a machine that is none.
#
#   arm.sh tools [all]   fetches a compiler for it (all: and what the whole program links)
#   arm.sh simd          the vector code against the scalar one, under qemu; on x86-64 also as processors without AVX2 and AVX-512 run it
#   arm.sh count         instructions of 20 ms of audio, NEON beside scalar
#   arm.sh all           builds `tandem`, places a call through it, and runs the engine's own tests, under qemu
#
# `tests/install.sh arm` installs the packages and calls `tools all`; `make arm` does everything. A Rust that has the target already
# (rustup target add aarch64-unknown-linux-gnu) is taken; otherwise Debian's rustc-web, unpacked beside the build, never installed.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
target=aarch64-unknown-linux-gnu
tools=$root/target/tools/aarch64
build=$root/target/aarch64
host=$(rustc -vV | sed -n 's/^host: //p')

# What the rest calls: $rustc_arm, $linker and, before a program, $run.
choose() {
    linker=aarch64-linux-gnu-gcc
    run="qemu-aarch64 -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH=$tools/arm64/usr/lib/aarch64-linux-gnu"
    rustc_arm=$tools/rustc
    if [ "$host" = "$target" ]; then rustc_arm=rustc linker=cc run=
    elif has_target; then rustc_arm=rustc
    fi
}

has_target() { [ -d "$(rustc --print target-libdir --target "$target" 2>/dev/null)" ]; }

# with_lists ARCHITECTURE COMMAND...: apt with lists of its own for packages of that architecture. The machine's stay as they are.
with_lists() {
    apt=$tools/apt/$1
    if [ ! -e "$apt/apt.conf" ]; then
        mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
        : >"$apt/status"
        cat >"$apt/new.conf" <<END
Dir::State "$apt/state";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
APT::Architecture "$1";
APT::Architectures { "$1"; };
APT::Sandbox::User "$(id -un)";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
END
        APT_CONFIG="$apt/new.conf" apt-get update -q >/dev/null
        mv "$apt/new.conf" "$apt/apt.conf"
    fi
    shift
    APT_CONFIG="$apt/apt.conf" "$@"
}

# unpack ARCHITECTURE FOLDER PACKAGE...: what is in these packages, without installing them.
unpack() {
    of=$1 folder=$2
    shift 2
    rm -rf "$tools/debs"
    mkdir -p "$tools/debs"
    (cd "$tools/debs" && with_lists "$of" apt-get download -q "$@" >/dev/null)
    for deb in "$tools"/debs/*.deb; do dpkg -x "$deb" "$folder"; done
    rm -rf "$tools/debs"
}

depends() { with_lists "$here" apt-cache depends "$1" | sed -n "s/^ *Depends: \($2.*\)/\1/p" | head -n 1; }

# Debian's compiler. `simd`: as far as it compiles for ARM; `all`: for this machine as well, as build scripts need.
fetch_compiler() {
    here=$(dpkg --print-architecture)
    if [ ! -x "$tools/rustc" ]; then
        library=$(depends libstd-rust-web-dev libstd-rust-web-)
        [ -n "$library" ] || { echo "arm.sh: there is no package rustc-web; rustup target add $target" >&2; exit 1; }
        unpack "$here" "$tools/rust" rustc-web "$library" "$(depends "$library" libllvm)"
        unpack arm64 "$tools/rust" libstd-rust-web-dev
        cat >"$tools/rustc.new" <<'END'
#!/bin/sh
rust=$(dirname "$0")/rust/usr
LD_LIBRARY_PATH="$(echo "$rust"/lib/*-linux-gnu)${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" exec "$rust/bin/rustc" "$@"
END
        chmod 755 "$tools/rustc.new"
        mv "$tools/rustc.new" "$tools/rustc"
    fi
    [ "$1" = simd ] || [ -d "$tools/rust/usr/lib/rustlib/$host" ] || unpack "$here" "$tools/rust" libstd-rust-web-dev
}

tools() {
    [ "$host" != "$target" ] || return 0
    has_target || fetch_compiler "$1"
    if [ "$1" = all ] && [ ! -e "$tools/arm64/openssl" ]; then
        unpack arm64 "$tools/arm64" libssl-dev libssl3
        # Where one -I finds both.
        cp "$tools"/arm64/usr/include/aarch64-linux-gnu/openssl/* "$tools/arm64/usr/include/openssl/"
        touch "$tools/arm64/openssl"
    fi
}

# compile_simd FOLDER RUSTC...: the vector code and its bench.
compile_simd() {
    folder=$1
    shift
    mkdir -p "$folder"
    "$@" --edition 2024 -O -D warnings --crate-type rlib --crate-name engine tests/arm/engine.rs --out-dir "$folder"
    "$@" --edition 2024 -O -A unknown-lints --extern "engine=$folder/libengine.rlib" benches/stages/simd/main.rs -o "$folder/simd"
}

compile_simd_arm() { compile_simd "$build/simd" "$rustc_arm" --target "$target" -C "linker=$linker"; }

# expect VERSIONS COMMAND...: it runs, with exactly these versions.
expect() {
    versions=$1
    shift
    said=$("$@") || { echo "$said"; exit 1; }
    case "$said" in "versions: $versions
"*) echo "$versions: same results" ;; *) echo "arm.sh: wanted versions $versions, got: $said" >&2; exit 1 ;; esac
}

# old PROCESSOR: the same on one of another time. What else it had is not our subject.
old() { qemu-x86_64 -cpu "$1" "$root/target/simd/simd" 2>"$root/target/simd/$1.log" || { cat "$root/target/simd/$1.log" >&2; return 1; }; }

simd() {
    compile_simd_arm
    # shellcheck disable=SC2086
    expect "neon, scalar" $run "$build/simd/simd"
    case "$host" in
    x86_64-*)
        compile_simd "$root/target/simd" rustc
        expect "scalar" old Westmere
        expect "avx2, scalar" old Haswell
        ;;
    esac
}

# instructions FRAMES ROUTINE VERSION: what qemu executes. One instruction a block, so a line each.
instructions() {
    # shellcheck disable=SC2086
    $run -singlestep -d exec,nochain -D /dev/fd/3 "$build/simd/simd" --run "$1" "$2" "$3" 3>&1 >/dev/null | wc -l
}

count() {
    compile_simd_arm
    printf '%-16s %8s %8s\n' "20 ms" neon scalar
    # shellcheck disable=SC2086
    $run "$build/simd/simd" --names | while read -r routine; do
        printf '%-16s' "$routine"
        for version in neon scalar; do
            few=$(instructions 10 "$routine" "$version")
            more=$(instructions 20 "$routine" "$version")
            printf ' %8d' $(((more - few) / 10))
        done
        echo
    done
}

all() {
    upper=AARCH64_UNKNOWN_LINUX_GNU
    program=target/debug/tandem
    cargo build --locked -p tandem-standin
    if [ -n "$run" ]; then
        export RUSTC="$rustc_arm" CARGO_TARGET_DIR="$build" CARGO_BUILD_TARGET="$target"
        export "CARGO_TARGET_${upper}_LINKER=$linker" "CARGO_TARGET_${upper}_RUNNER=$run"
        export "${upper}_OPENSSL_INCLUDE_DIR=$tools/arm64/usr/include" "${upper}_OPENSSL_LIB_DIR=$tools/arm64/usr/lib/aarch64-linux-gnu"
        printf '#!/bin/sh\nexec %s "$@"\n' "$run $build/$target/debug/tandem" >"$build/tandem"
        chmod 755 "$build/tandem"
        program=$build/tandem
    fi
    cargo build --locked -p control --bin tandem
    # Whose subject is io_uring cannot be tested so.
    cargo test --locked -p engine --lib -- ${run:+--skip io::tests::}
    # A whole call, judged by what is heard. qemu has no io_uring: media run on recvmmsg and sendmmsg. Fails now and then on a busy machine.
    DEMO_ONCE=1 "$root/target/debug/tandem-standin" demo --page-port 0 --tls-port 0 --tandem "$program"
}

choose
case "${1:-}" in
tools) tools "${2:-simd}" ;;
simd | count | all) "$1" ;;
*) echo "usage: arm.sh tools [all] | simd | count | all" >&2; exit 2 ;;
esac
