"""Many services on one machine: more than fit into the memory budget, and a thousand in one folder.

Run: make bench-density    (BENCH_ARGS="--services 100 --budgeted 30" for a short run)
"""

import argparse
import pathlib
import shutil
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "tests" / "clients"))

import daemon as kserved  # noqa: E402
import load  # noqa: E402
import numpy as np  # noqa: E402
import oip  # noqa: E402
import onnx  # noqa: E402
import tables  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

WIDTH = 1024
MLP = kserved.FIXTURES / "mlp.onnx"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--services", type=int, default=1000, help="in one folder, of a tiny model")
    parser.add_argument("--budgeted", type=int, default=300, help="services of 4 MiB each, three times what the budget holds")
    parser.add_argument("--seconds", type=float, default=5, help="of each load")
    options = tables.arguments(parser)
    with tempfile.TemporaryDirectory(prefix="kserved-density-") as folder:
        folder = pathlib.Path(folder)
        alone = crowd(folder / "alone", 1, options)
        many = crowd(folder / "many", options.services, options)
        budgeted = over_budget(folder / "budget", options)
    lines = [
        tables.machine(f"make bench-density BENCH_ARGS='--services {options.services} --budgeted {options.budgeted}'"),
        "",
        *tables.table(["services in one folder", "all ready after s (goal 15)", "resident MiB", "p50 ms", "p99 ms", "answers/s"], [alone, many]),
        "",
        f"p50 of one among {options.services} against alone: {many[3] / alone[3]:.3f} (goal 1.05).",
        "",
        *tables.table(
            ["services", "weights MiB", "budget MiB", "requests", "failed (goal 0)", "p50 ms", "p99 ms", "resident MiB at most"], [budgeted]
        ),
    ]
    tables.write(options.output, "density", "Density", lines)


def crowd(folder, services, options):
    """Starts over a folder of services and loads one of them with one caller."""
    running = kserved.Daemon(folder, options.kserved)
    for index in range(services):
        running.write(f"mlp-{index}.yaml", kserved.service(f"mlp-{index}", str(MLP)))
    ready_s = running.start(ready_within_s=300)
    try:
        for index in range(0, services, max(1, services // 20)):
            running.client.infer("json", f"mlp-{index}", {"x": np.ones((1, 4), np.float32)})
        content, headers = oip.binary_request({"x": np.ones((1, 4), np.float32)})
        body = folder / "request"
        body.write_bytes(content)
        url = f"http://127.0.0.1:{running.ports['http']}/v2/models/mlp-{services // 2}/infer"
        load.h2load(url, body, headers, 1, requests=500)
        found = load.h2load(url, body, headers, 1, seconds=options.seconds)
        return services, ready_s, running.rss_mib(), found["p50_ms"], found["p99_ms"], found["per_s"]
    finally:
        running.stop()


def write_model(path):
    """`y` = `x` times a 4 MiB matrix."""
    weights = numpy_helper.from_array(np.random.default_rng(3).normal(0, 0.03, (WIDTH, WIDTH)).astype(np.float32), "w")
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH])] for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "wide", *ends, [weights])
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


def over_budget(folder, options):
    """Asks services in turn whose weights together are three times the budget."""
    running = kserved.Daemon(folder, options.kserved)
    write_model(folder / "wide.onnx")
    weights_mib = options.budgeted * 4 * WIDTH * WIDTH / (1 << 20)
    budget_mib = weights_mib / 3
    for index in range(options.budgeted):
        target = running.models / f"wide-{index}"
        target.mkdir()
        shutil.copyfile(folder / "wide.onnx", target / "model.onnx")
        running.add(f"wide-{index}", None)
    running.start(config=f"memory:\n  models_bytes_max: {int(budget_mib) << 20}\n", ready_within_s=300)
    times, failures, peak = [], 0, 0.0
    inputs = {"x": np.ones((1, WIDTH), np.float32)}
    try:
        for _round in range(2):
            for index in range(options.budgeted):
                began = time.monotonic()
                try:
                    running.client.infer("binary", f"wide-{index}", inputs)
                except (oip.Refused, OSError) as error:
                    failures += 1
                    print(f"wide-{index}: {error}", flush=True)
                times.append((time.monotonic() - began) * 1e3)
                peak = max(peak, running.rss_mib())
    finally:
        running.stop()
    times.sort()
    return options.budgeted, weights_mib, budget_mib, len(times), failures, times[len(times) // 2], times[int(0.99 * len(times))], peak


if __name__ == "__main__":
    main()
