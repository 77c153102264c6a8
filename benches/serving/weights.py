"""What four workers of one model take in memory against one: the weights are held once.

Run: make bench-weights
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "tests" / "clients"))

import daemon as kserved  # noqa: E402
import load  # noqa: E402
import make_models  # noqa: E402
import minilm  # noqa: E402
import oip  # noqa: E402
import tables  # noqa: E402

WORKERS = [1, 4]
# Runs at once: as many as the machine has cores, which is the default, or as many as there are workers.
AT_ONCE = {"the machine's cores": lambda workers: os.cpu_count(), "all workers": lambda workers: workers}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, help="a MiniLM in ONNX; without it the published 8-bit one")
    options = tables.arguments(parser)
    with tempfile.TemporaryDirectory(prefix="kserved-weights-") as folder:
        folder = pathlib.Path(folder)
        inputs = {"resnet18": make_models.make(folder)["resnet18"], "minilm": minilm.tokens(128)}
        files = {"resnet18": folder / "resnet18.onnx", "minilm": options.model or minilm.published()}
        rows = [row(folder, options, name, files[name], inputs[name], at_once) for name in files for at_once in AT_ONCE]
    heads = ["model", "runs at once", "1 worker MiB", "4 workers MiB", "ratio (goal 1.15)"]
    lines = [tables.machine("make bench-weights"), "Medians of three daemons each.", "", *tables.table(heads, rows)]
    tables.write(options.output, "weights", "One copy of the weights", lines)


def row(folder, options, name, file, inputs, at_once):
    def resident(workers):
        threads = min(workers, AT_ONCE[at_once](workers))
        places = [folder / f"{name}-{at_once.split()[0]}-{workers}-{turn}" for turn in range(3)]
        return statistics.median(rss_mib(place, options, file, inputs, workers, threads) for place in places)

    one, several = map(resident, WORKERS)
    return name, at_once, one, several, several / one


def rss_mib(folder, options, file, inputs, workers, threads):
    """Resident memory after a load that keeps all workers busy."""
    running = kserved.Daemon(folder, options.kserved)
    running.add("model", file)
    running.start(config=f"pool:\n  workers_max: {workers}\n  threads_max: {threads}\n")
    try:
        content, headers = oip.binary_request(inputs)
        (folder / "request").write_bytes(content)
        url = f"http://127.0.0.1:{running.ports['http']}/v2/models/model/infer"
        load.h2load(url, folder / "request", headers, 8, seconds=5)
        return running.rss_mib()
    finally:
        running.stop()


if __name__ == "__main__":
    main()
