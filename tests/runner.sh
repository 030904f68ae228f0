#!/bin/sh
# Runs one test program with the time of each test printed. libtest knows --report-time behind its own switch only.
program=$1
shift
case "$program" in
*/deps/*) RUSTC_BOOTSTRAP=1 exec "$program" "$@" -Z unstable-options --report-time ;;
*) exec "$program" "$@" ;;
esac
