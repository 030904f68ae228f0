#!/bin/sh
# forget.sh FOLDER: removes libopus from a folder of cargo's (target/debug, target/release) if a function of ours has changed since it was
# built there. Cargo, for which libopus is a foreign crate, does not see that.
set -eu
cd "$(dirname "$0")/../.."
folder=$1
case $folder in
    */release) profile=release ;;
    *) profile=dev ;;
esac
for library in "$folder"/build/opusic-sys-*/out/lib/libopus.a; do
    [ -e "$library" ] || continue
    if [ -n "$(find engine/libopus engine/libopus.cmake -type f -newer "$library")" ]; then
        cargo clean --quiet --locked --profile "$profile" --target-dir "$(dirname "$folder")" -p opusic-sys
        break
    fi
done
