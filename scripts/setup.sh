#!/usr/bin/env bash
# Checks that the prerequisites are here and puts the ONNX Runtime library into lib/. Does nothing the second time.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"

missing() {
    printf 'error: %s was not found\n\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

command -v "$python" >/dev/null || missing "$python" 'install Python 3.10 or newer with pip (Debian: `apt install python3 python3-pip python3-venv`)'
command -v cargo >/dev/null || missing cargo 'install Rust 1.95 or newer with rustup'
command -v cc >/dev/null || missing 'a C compiler (cc)' 'install gcc or clang (Debian: `apt install build-essential`)'

exec "$python" scripts/fetch_onnxruntime.py
