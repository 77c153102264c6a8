"""Ten thousand resources in one folder: until all are reconciled, memory, and from one edited file to its new status.

Run: make bench-many    (BENCH_ARGS="--services 1000" for a short run)
"""

import argparse
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "tests" / "clients"))

import daemon as kserved  # noqa: E402
import density  # noqa: E402
import tables  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--edits", type=int, default=20)
    options = tables.arguments(parser)
    with tempfile.TemporaryDirectory(prefix="kserved-many-") as folder:
        rows = [row(pathlib.Path(folder) / str(count), count, options) for count in sorted({100, options.services})]
    heads = ["services", "start to all reconciled s", "resident MiB", "edit to new status ms, median", "slowest", "edit to new revision ready ms, median", "slowest"]
    lines = [
        tables.machine(f"make bench-many BENCH_ARGS='--services {options.services}'"),
        "Each service has a file of its own and loads a tiny model. The first edit changes only `minReplicas`, the second the model's path.",
        "",
        *tables.table(heads, rows),
    ]
    tables.write(options.output, "many", "Many resources", lines)


def row(folder, count, options):
    running = kserved.Daemon(folder, options.kserved)
    (running.models / "other").mkdir()
    shutil.copyfile(density.MLP, running.models / "other" / "model.onnx")
    for number in range(count):
        running.write(f"m{number}.yaml", kserved.service(f"m{number}", str(density.MLP)))
    # The files' own ages, so that no model counts as half-written.
    time.sleep(0.5)
    began = time.monotonic()
    running.start(ready_within_s=1200)
    reconciled = time.monotonic() - began
    try:
        time.sleep(2)
        resident = running.rss_mib()
        status = [edited(running, number, lambda text: text.replace("  predictor:\n", "  predictor:\n    minReplicas: 2\n"), generation) for number in range(options.edits)]
        ready = [edited(running, number, lambda text: text.replace(str(density.MLP), "other/model.onnx"), second_revision) for number in range(options.edits)]
    finally:
        running.stop(within_s=120)
    return count, reconciled, resident, statistics.median(status), max(status), statistics.median(ready), max(ready)


def edited(running, number, change, is_there):
    """Milliseconds from the rename that changes a file to the status that says so."""
    name = f"m{number}"
    text = change((running.models / f"{name}.yaml").read_text())
    began = time.monotonic()
    running.write(f"{name}.yaml", text)
    running.wait_for(lambda: is_there(running.resource(name)), 60, "has taken over an edited file")
    return (time.monotonic() - began) * 1e3


def generation(resource):
    return resource["status"]["observedGeneration"] >= 2


def second_revision(resource):
    return resource["status"]["components"]["predictor"]["latestReadyRevision"].endswith("-00002")


if __name__ == "__main__":
    main()
