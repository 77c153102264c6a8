#!/usr/bin/env bash
# place_binary.sh PROFILE [NAME [FROM]]: puts the binary of a profile (`release` or `debug`) at target/PROFILE/NAME (`kserved`) with
# the engine library beside it, wherever cargo built it (FROM), so that it runs from any folder.
set -euo pipefail
cd "$(dirname "$0")/.."
profile="$1"
name="${2:-kserved}"
built="${3:-${CARGO_TARGET_DIR:-target}/$profile}"
placed="target/$profile"

mkdir -p "$placed"
if ! [ "$built/$name" -ef "$placed/$name" ]; then
    # Copied beside and renamed: a daemon that runs from the old file keeps it.
    cp "$built/$name" "$placed/$name.new"
    mv -f "$placed/$name.new" "$placed/$name"
fi
ln -sfn ../../lib "$placed/lib"
