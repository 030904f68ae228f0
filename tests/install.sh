#!/bin/sh
# install.sh demo|quality|test|rival|arm: installs from Debian's packages (and PyPI, for scoring speech) what the machine lacks.
# demo needs a compiler and cmake; quality also what makes and scores speech; test also the independent programs that the interop tests call.
set -eu
cd "$(dirname "$0")/.."

demo_packages="gcc g++ libc6-dev make cmake pkg-config libssl-dev"
test_packages="$demo_packages chromium chromium-driver firefox-esr kamailio kamailio-tls-modules kamailio-websocket-modules baresip-core sip-tester dnsmasq-base golang-go golang-github-pion-webrtc.v3-dev janus \
iproute2 iptables util-linux tcpdump procps sox espeak-ng ffmpeg openssl valgrind python3-venv python3-dev"

quality_packages="$demo_packages sox espeak-ng python3-venv python3-dev"

# Linker and emulator of 64-bit ARM, and what the compiler that tests/arm.sh unpacks is linked with.
arm_packages="gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user libedit2 libffi8 libxml2 libz3-4"

case "${1:-}" in
demo) packages=$demo_packages ;;
quality) packages=$quality_packages ;;
rival) packages="rtpengine-daemon" ;;
arm) packages="$demo_packages $arm_packages g++-aarch64-linux-gnu" ;;
test) packages="$test_packages $arm_packages" ;;
*) echo "usage: install.sh demo|quality|test|rival|arm" >&2; exit 2 ;;
esac

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else echo "install.sh: needs root (or sudo) to install:$missing" >&2; exit 1
    fi
}

# Softphones of others come by npm; where node was not installed from Debian, npm came with it.
if [ "$1" = test ] && ! command -v npm >/dev/null; then packages="$packages nodejs npm"; fi

# A server that is only a test's peer must not start as a service of this machine.
forbid_services() {
    [ ! -e /usr/sbin/policy-rc.d ] || return 0
    printf '#!/bin/sh\nexit 101\n' >"${TMPDIR:-/tmp}/policy-rc.d.$$"
    as_root install -m 755 "${TMPDIR:-/tmp}/policy-rc.d.$$" /usr/sbin/policy-rc.d
    rm -f "${TMPDIR:-/tmp}/policy-rc.d.$$"
    trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
}

# install_packages NAME...: those that are not there yet.
install_packages() {
    missing=
    for package in "$@"; do
        status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$status" = installed ] || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    echo "installing:$missing"
    forbid_services
    [ -n "${lists_are_fresh:-}" ] || as_root apt-get update -q
    lists_are_fresh=1
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
}

# shellcheck disable=SC2086
install_packages $demo_packages
command -v cargo >/dev/null || { echo "install.sh: cargo not found; install Rust 1.95 or newer" >&2; exit 1; }

if [ "$1" = test ]; then
    tools=target/tools
    mkdir -p "$tools"
    # Licences, bans and sources of what is linked in. It builds while packages are fetched.
    deny=
    if ! "$tools/bin/cargo-deny" --version 2>/dev/null | grep -q 0.20.2; then
        cargo install -q --locked --debug --root "$tools" cargo-deny@0.20.2 &
        deny=$!
    fi
fi

# shellcheck disable=SC2086
install_packages $packages

if [ "$1" = test ]; then
    # PESQ (ITU-T P.862) scores what was heard.
    wanted=$(cat tests/interop/requirements.txt)
    if [ "$(cat "$tools/requirements.installed" 2>/dev/null || true)" != "$wanted" ]; then
        /usr/bin/python3 -m venv "$tools/python"
        "$tools/python/bin/pip" install -q --disable-pip-version-check -r tests/interop/requirements.txt
        printf '%s' "$wanted" >"$tools/requirements.installed"
    fi
    # The WebRTC peer that shares no code with us, in WhatsApp's place.
    if [ ! -x "$tools/lite-pion" ] || [ tests/interop/pion/main.go -nt "$tools/lite-pion" ]; then
        sh tests/interop/pion/build.sh "$tools/lite-pion"
    fi
    # JsSIP and SIP.js, bundled for a browser.
    wanted=$(cat tests/interop/softphone/*)
    if [ "$(cat "$tools/softphone.installed" 2>/dev/null || true)" != "$wanted" ]; then
        sh tests/interop/softphone/build.sh "$tools/softphone"
        printf '%s' "$wanted" >"$tools/softphone.installed"
    fi
    [ -z "$deny" ] || wait "$deny"
fi

if [ "$1" = quality ]; then
    # PESQ and STOI score what was heard. An environment of its own: `test` needs only the first, and is cold on every run.
    tools=target/tools
    wanted=$(cat benches/quality/requirements.txt)
    if [ "$(cat "$tools/quality.installed" 2>/dev/null || true)" != "$wanted" ]; then
        mkdir -p "$tools"
        /usr/bin/python3 -m venv "$tools/quality"
        "$tools/quality/bin/python" -m pip install -q --disable-pip-version-check -r benches/quality/requirements.txt
        printf '%s' "$wanted" >"$tools/quality.installed"
    fi
fi

if [ "$1" = test ]; then tests/arm.sh tools simd; fi
if [ "$1" = arm ]; then tests/arm.sh tools all; fi
