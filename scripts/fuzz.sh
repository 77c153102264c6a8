#!/usr/bin/env bash
# Feeds damaged headers to the fuzz targets of fuzz/, for so many seconds each; ends with an error at the first thing found.
#
# Run: scripts/fuzz.sh 60
#
# libFuzzer needs a nightly Rust. Both it and cargo-fuzz are installed where rustup and the registry can be reached.
set -euo pipefail
seconds="${1:?usage: scripts/fuzz.sh SECONDS}"
cd "$(dirname "$0")/.."
build="${CARGO_TARGET_DIR:-target}/fuzz"

cargo +nightly --version >/dev/null 2>&1 || rustup toolchain install nightly --profile minimal ||
	{ echo "no nightly Rust here: fuzzing needs one: \`rustup toolchain install nightly\`" >&2; exit 1; }
cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz ||
	{ echo "no cargo-fuzz here: \`cargo install --locked cargo-fuzz\`" >&2; exit 1; }

# The same versions of what kserved uses as in its own builds.
cp Cargo.lock fuzz/Cargo.lock
"${PYTHON:-python3}" fuzz/make_seeds.py
cargo +nightly fuzz build --target-dir "$build"
for target in gguf_header safetensors_header; do
	mkdir -p "fuzz/corpus/$target"
	# One allocation of 64 MiB from a file of at most 64 KiB would be a length that was believed.
	cargo +nightly fuzz run --target-dir "$build" "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
		-max_total_time="$seconds" -max_len=65536 -malloc_limit_mb=64 -timeout=5 -print_final_stats=1
done
