#!/bin/sh
# Runs one test program with the time of each test printed. libtest knows --report-time behind its own switch only; criterion's
# programs, which share a folder with tests, know it not.
program=$1
shift
case "$program" in
*/deps/*)
    if [ "${CARGO_PKG_NAME:-}" = benches ] && ! "$program" --help 2>/dev/null | grep -q -e --report-time; then exec "$program" "$@"; fi
    RUSTC_BOOTSTRAP=1 exec "$program" "$@" -Z unstable-options --report-time
    ;;
*) exec "$program" "$@" ;;
esac
