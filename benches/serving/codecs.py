"""What reading and writing JSON costs against the fastest parser alone: runs `cargo bench --bench codecs` and keeps its ratios.

Run: make bench-codecs    (about three minutes)
"""

import argparse
import json
import os
import pathlib
import subprocess

import tables

FLOORS = ["sonic-rs floor", "serde_json floor"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options = tables.arguments(parser)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or tables.ROOT / "target")
    subprocess.run(["cargo", "bench", "--locked", "--bench", "codecs"], check=True, cwd=tables.ROOT)
    rows = [row for group in sorted((target / "criterion").iterdir()) if group.is_dir() for row in rows_of(group)]
    lines = [
        tables.machine("make bench-codecs"),
        "150,528 numbers (the picture of a ResNet-18 request); medians. The floors read or write the bare array, kserved the whole request.",
        "",
        *tables.table(["what", "kserved ms", "sonic-rs ms", "kserved to sonic-rs (goal 1.3)", "serde_json ms"], rows),
    ]
    tables.write(options.output, "codecs", "Codecs", lines)


def rows_of(group):
    """A row for each case of a group that has kserved's own time."""
    cases = {}
    for estimates in group.glob("**/new/estimates.json"):
        described = json.loads((estimates.parent / "benchmark.json").read_text())
        case, _, side = described["function_id"].rpartition("/")
        cases.setdefault(case, {})[side] = json.loads(estimates.read_text())["median"]["point_estimate"] / 1e6
    for case, sides in sorted(cases.items()):
        if "kserved" in sides:
            ours, (floor, other) = sides["kserved"], (sides.get(floor) for floor in FLOORS)
            yield f"{group.name}: {case}", ours, floor, ours / floor if floor else None, other


if __name__ == "__main__":
    main()
