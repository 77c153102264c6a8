#!/usr/bin/env bash
# Puts the binary of a profile (`release` or `debug`) at target/PROFILE/kserved with the engine library beside it,
# wherever cargo built it, so that it runs from any folder.
set -euo pipefail
cd "$(dirname "$0")/.."
profile="$1"
built="${CARGO_TARGET_DIR:-target}/$profile"
placed="target/$profile"

mkdir -p "$placed"
if ! [ "$built/kserved" -ef "$placed/kserved" ]; then
    # Copied beside and renamed: a daemon that runs from the old file keeps it.
    cp "$built/kserved" "$placed/kserved.new"
    mv -f "$placed/kserved.new" "$placed/kserved"
fi
ln -sfn ../../lib "$placed/lib"
