"""Swaps a model again and again under full load, then loads and unloads it again and again: nothing fails, nothing leaks.

Run: make bench-swap    (BENCH_ARGS="--swaps 100 --cycles 100" for a short run)
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "tests" / "clients"))

import daemon as kserved  # noqa: E402
import tables  # noqa: E402
import test_swap as swap  # noqa: E402

CONFIG = "control:\n  debounce_ms: 5\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--cycles", type=int, default=1000)
    options = tables.arguments(parser)
    with tempfile.TemporaryDirectory(prefix="kserved-swap-") as folder:
        swaps = swap_under_load(kserved.Daemon(pathlib.Path(folder) / "swap", options.kserved), options.swaps)
        cycles = load_and_unload(kserved.Daemon(pathlib.Path(folder) / "cycle", options.kserved), options.cycles)
    lines = [
        tables.machine(f"make bench-swap BENCH_ARGS='--swaps {options.swaps} --cycles {options.cycles}'"),
        "Four Python callers without a pause, two over HTTP, two over gRPC; each answer is checked against the version it names.",
        "",
        *tables.table(["swaps", "seconds", "answers", "failed (goal 0)", "of a wrong version (goal 0)"], [swaps]),
        "",
        *tables.table(["load/unload cycles", "resident MiB", "threads", "open files"], cycles),
        "",
        f"Resident after all cycles against after the first tenth: {cycles[-1][1] / cycles[0][1]:.3f} (goal 1.05).",
    ]
    tables.write(options.output, "swap", "Hot swap", lines)
    if swaps[3] or swaps[4]:
        sys.exit("error: a request failed or mixed versions")


def begin(running):
    folder = running.models / "adder"
    folder.mkdir()
    swap.write_model(folder / "0.onnx", 0)
    running.write("adder.yaml", swap.MANIFEST.format(file="0.onnx"))
    running.start(config=CONFIG)
    running.wait_ready("adder")
    return folder / "0.onnx"


def swap_under_load(running, swaps):
    file = begin(running)
    version_of, began = {swap.revision(running): 0}, time.monotonic()
    try:
        with swap.Callers(running, ["http", "grpc", "http", "grpc"]) as callers:
            for version in range(1, swaps + 1):
                before = swap.revision(running)
                swap.write_model(file, version)
                running.wait_for(lambda: swap.revision(running) not in (None, before), 30, f"serves version {version}")
                version_of[swap.revision(running)] = version
                if version % 100 == 0:
                    print(f"{version} swaps, {len(callers.failures)} failures", flush=True)
    finally:
        running.stop()
    for failure in callers.failures[:3]:
        print(failure)
    wrong = len(swap.mixed_up(callers.seen, version_of))
    return swaps, time.monotonic() - began, sum(callers.seen.values()), len(callers.failures), wrong


def load_and_unload(running, cycles):
    begin(running)
    manifest, text = running.models / "adder.yaml", swap.MANIFEST.format(file="0.onnx")
    found = []
    try:
        for cycle in range(1, cycles + 1):
            manifest.unlink()
            running.wait_for(lambda: running.client.get("/v2/models/adder").status == 404, 30, "forgets the model")
            running.write("adder.yaml", text)
            running.wait_ready("adder")
            running.client.infer("json", "adder", {"x": swap.X})
            if cycle % max(1, cycles // 10) == 0:
                found.append((cycle, running.rss_mib(), threads(running), running.open_files()))
                print(found[-1], flush=True)
    finally:
        running.stop()
    return found


def threads(running):
    return len(os.listdir(f"/proc/{running.process.pid}/task"))


if __name__ == "__main__":
    main()
