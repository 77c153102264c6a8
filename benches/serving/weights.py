"""What four workers of one model take in memory against one: the weights are held once.

Run: make bench-weights
"""

import argparse
import pathlib
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, help="a MiniLM in ONNX; without it the published 8-bit one")
    options = tables.arguments(parser)
    with tempfile.TemporaryDirectory(prefix="kserved-weights-") as folder:
        folder = pathlib.Path(folder)
        inputs = {"resnet18": make_models.make(folder)["resnet18"], "minilm": minilm.tokens(128)}
        files = {"resnet18": folder / "resnet18.onnx", "minilm": options.model or minilm.published()}
        rows = [row(folder, options, name, files[name], inputs[name]) for name in files]
    lines = [tables.machine("make bench-weights"), "", *tables.table(["model", "1 worker MiB", "4 workers MiB", "ratio (goal 1.15)"], rows)]
    tables.write(options.output, "weights", "One copy of the weights", lines)


def row(folder, options, name, file, inputs):
    resident = [rss_mib(folder / f"{name}-{workers}", options, file, inputs, workers) for workers in WORKERS]
    return name, *resident, resident[1] / resident[0]


def rss_mib(folder, options, file, inputs, workers):
    """Resident memory after a load that keeps all workers busy."""
    running = kserved.Daemon(folder, options.kserved)
    running.add("model", file)
    running.start(config=f"pool:\n  workers_max: {workers}\n  threads_max: {workers}\n")
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
