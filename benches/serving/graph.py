"""What a step of an InferenceGraph costs over calling its model: one, two and four steps, small and large tensors.

Run: make bench-graph
"""

import argparse
import pathlib
import statistics
import sys
import tempfile

import numpy as np
import onnx
from onnx import TensorProto, helper

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "tests" / "clients"))

import daemon as kserved  # noqa: E402
import load  # noqa: E402
import oip  # noqa: E402
import tables  # noqa: E402

STEPS = [1, 2, 4]
TENSORS = {"16 numbers": (1, 16), "3 MB": (250, 3000)}
GRAPH = """apiVersion: serving.kserve.io/v1alpha1
kind: InferenceGraph
metadata: {{name: {name}}}
spec:
  nodes:
    root:
      routerType: {router}
      steps:
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3, help="of each window")
    parser.add_argument("--rounds", type=int, default=5, help="windows of each case")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 8])
    options = tables.arguments(parser)
    with tempfile.TemporaryDirectory(prefix="kserved-graph-") as folder:
        rows = measure(pathlib.Path(folder), options)
    heads = ["tensor", "called", "callers", "answers/s", "p50 ms", "p99 ms", "µs a step over the model (goal 10)", "failures"]
    tables.write(options.output, "graph", "Graphs", [tables.machine("make bench-graph"), "", *tables.table(heads, rows)])


def measure(folder, options):
    running = kserved.Daemon(folder, options.kserved)
    for name, source, target in [("there", "x", "y"), ("back", "y", "x")]:
        identity(folder / f"{name}.onnx", source, target)
        running.add(name, folder / f"{name}.onnx")
    for steps in STEPS:
        running.write(f"chain-{steps}.yaml", chain(steps))
    running.start()
    try:
        for steps in STEPS:
            ready = {"host": f"chain-{steps}.default.example.com"}
            running.wait_for(lambda: running.client.request("GET", "/readyz", None, ready).status == 200, 30, "has its graphs")
        return list(rows(folder, running, options))
    finally:
        running.stop()


def rows(folder, running, options):
    for tensor, shape in TENSORS.items():
        content, headers = oip.binary_request({"x": np.zeros(shape, np.float32)})
        body = folder / "request"
        body.write_bytes(content)
        for callers in options.callers:
            # In turns, so that whatever else the machine does meanwhile falls on all of them.
            paths = {0: "/v2/models/there/infer"} | {steps: f"/serving/default/chain-{steps}" for steps in STEPS}
            found = {steps: [] for steps in paths}
            for _ in range(options.rounds):
                for steps, path in paths.items():
                    found[steps].append(load.h2load(f"http://{running.http}{path}", body, headers, callers, seconds=options.seconds))
            told = {steps: median(windows) for steps, windows in found.items()}
            yield row(tensor, "the model", callers, told[0], None)
            for steps in STEPS:
                # A graph of one step runs the model once, too; further steps run it again, which is no cost of the graph.
                more = (told[1]["p50_ms"] - told[0]["p50_ms"]) * 1e3 if steps == 1 and told[1]["p50_ms"] and told[0]["p50_ms"] else None
                yield row(tensor, f"a sequence of {steps}", callers, told[steps], more)


def median(windows):
    """Of each figure the middle one; failures of all windows."""
    middle = {name: statistics.median(window[name] for window in windows if window[name] is not None) for name in ["per_s", "p50_ms", "p99_ms"]}
    return middle | {"failures": sum(window["failures"] for window in windows)}


def row(tensor, called, callers, found, more):
    return tensor, called, callers, found["per_s"], found["p50_ms"], found["p99_ms"], more, found["failures"]


def chain(steps):
    names = ["there", "back"]
    step = "      - {{serviceName: {}, data: $response, dependency: Hard}}\n"
    return GRAPH.format(name=f"chain-{steps}", router="Sequence") + "".join(step.format(names[at % 2]) for at in range(steps))


def identity(path, source, target):
    """A model that does nothing, so that the way to it is all there is to measure."""
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "m"])] for name in (source, target)]
    made = helper.make_graph([helper.make_node("Identity", [source], [target])], "identity", *ends)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


if __name__ == "__main__":
    main()
