#!/bin/sh
# build.sh FOLDER: installs the softphones of package-lock.json into FOLDER and bundles each for a browser.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cp "$here/package.json" "$here/package-lock.json" "$1"
cd "$1"
npm ci --silent --no-fund --no-audit --ignore-scripts
bundle() {
    printf '%s\n' "$2" >"$1.entry.js"
    node_modules/@esbuild/linux-*/bin/esbuild "$1.entry.js" --bundle --format=iife --log-level=error --outfile="$1.js"
}
bundle jssip "globalThis.JsSIP = require('jssip');"
bundle sipjs "import * as SIP from 'sip.js'; globalThis.SIP = SIP;"
bundle sipjs20 "import * as SIP from 'sipjs20'; globalThis.SIP20 = SIP;"
cp "$here/phone.js" .
