"""Goodput against offered load, from half of what the daemon can do to ten times as much, and how it recovers.

Run: make bench-overload    (BENCH_ARGS="--seconds 5" for a short run)

h2load asks at a fixed rate whatever comes back (open loop, HTTP/2 on the same port). The model takes some milliseconds a run,
so the generator, which shares the cores, costs little beside it. `admitted` are the requests that got an answer.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "tests" / "clients"))

import daemon as kserved  # noqa: E402
import load  # noqa: E402
import numpy as np  # noqa: E402
import oip  # noqa: E402
import tables  # noqa: E402

MODEL = kserved.FIXTURES / "slow.onnx"
HEADERS = {"content-type": "application/json"}
CLIENTS = 32
STREAMS = 256


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="of each load")
    parser.add_argument("--factors", type=float, nargs="+", default=[0.5, 0.8, 1, 1.5, 2, 4, 10])
    parser.add_argument("--run-ms", type=float, default=15, help="how long one answer takes alone; ResNet-18 takes that long")
    parser.add_argument("--queue-max", type=int, default=64)
    options = tables.arguments(parser)
    with tempfile.TemporaryDirectory(prefix="kserved-overload-") as folder:
        bench = Bench(pathlib.Path(folder), options)
        try:
            rows = bench.run()
        finally:
            bench.running.stop()
    peak = max(row[2] for row in rows)
    lines = [
        tables.machine(f"make bench-overload BENCH_ARGS='--seconds {options.seconds:g} --queue-max {options.queue_max}'"),
        f"Capacity, closed loop with 16 callers: {bench.capacity:.0f}/s; one answer alone takes {bench.alone_ms:.1f} ms. Goodput at the "
        f"highest load is {rows[-1][2] / peak:.3f} of its peak (goal 0.95).",
        "",
        *tables.table(
            ["offered/s", "of capacity", "goodput/s", "refused/s", "admitted p50 ms", "p99 ms", "resident MiB", "recovered after ms"], rows
        ),
    ]
    tables.write(options.output, "overload", "Overload", lines)


class Bench:
    """One daemon with one slow model."""

    def __init__(self, folder, options):
        self.options = options
        self.running = kserved.Daemon(folder, options.kserved)
        self.body = folder / "request"
        self.running.add("slow", MODEL)
        self.running.start(config=f"pool:\n  queue_max: {options.queue_max}\n")
        self.url = f"http://127.0.0.1:{self.running.ports['http']}/v2/models/slow/infer"

    def run(self):
        self.alone_ms = self.takes_ms(300)
        self.alone_ms = self.takes_ms(round(300 * self.options.run_ms / self.alone_ms))
        self.capacity = self.closed(max(3, self.options.seconds / 4))["per_s"]
        return [self.offer(factor) for factor in self.options.factors]

    def takes_ms(self, iterations):
        """How long an answer of so many matrix products takes alone; requests are for so many from then on."""
        self.inputs = {"iterations": np.array([iterations], np.int64)}
        self.body.write_text(json.dumps({"inputs": [{**oip.head(name, array), "data": array.tolist()} for name, array in self.inputs.items()]}))
        self.closed(2)
        return min(self.one_ms() for _ in range(20))

    def closed(self, seconds):
        return load.h2load(self.url, self.body, HEADERS, 16, seconds=seconds)

    def one_ms(self):
        began = time.monotonic()
        self.running.client.infer("json", "slow", self.inputs)
        return (time.monotonic() - began) * 1e3

    def offer(self, factor):
        rate, seconds, peak = self.capacity * factor, self.options.seconds, [0.0]
        watching = threading.Event()
        watcher = threading.Thread(target=self.watch, args=(watching, peak))
        watcher.start()
        found = open_loop(self.url, self.body, rate, seconds)
        recovered = self.recovery_ms()
        watching.set()
        watcher.join()
        row = (rate, f"{factor:g}x", found["answers"] / seconds, found["failures"] / seconds)
        row += (found["p50_ms"], found["p99_ms"], peak[0], recovered)
        print(row, flush=True)
        return row

    def watch(self, end, peak):
        while not end.wait(0.2):
            peak[0] = max(peak[0], self.running.rss_mib())

    def recovery_ms(self):
        """From the end of the load to the end of the first request that takes no longer than twice what one alone takes."""
        began = time.monotonic()
        while time.monotonic() - began < 60:
            try:
                if self.one_ms() < 2 * self.alone_ms + 1:
                    return (time.monotonic() - began) * 1e3
            except oip.Refused:
                time.sleep(0.005)
        return None


def open_loop(url, body, rate, seconds):
    """So many requests a second, whatever comes back."""
    clients = max(1, min(CLIENTS, int(rate)))
    with tempfile.NamedTemporaryFile(prefix="h2load") as log:
        command = ["h2load", "-t1", f"-c{clients}", f"-m{STREAMS}", f"--rps={rate / clients:.3f}", "-D", f"{int(seconds * 1000)}ms"]
        command += [f"--log-file={log.name}", "-d", str(body), "-H", "content-type: application/json", url]
        subprocess.run(command, check=True, capture_output=True, timeout=seconds + 120)
        return load.summary(pathlib.Path(log.name).read_text())


if __name__ == "__main__":
    main()
