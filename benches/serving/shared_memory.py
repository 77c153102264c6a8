"""A 13 MB picture to a text detector: through shared memory and over every wire, against ONNX Runtime in process.

Run: make bench-shared-memory    (BENCH_ARGS="--seconds 5" for a short run)
"""

import argparse
import atexit
import itertools
import json
import pathlib
import statistics
import sys
import tempfile
from multiprocessing import shared_memory

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "tests" / "clients"))

import daemon as kserved  # noqa: E402
import numpy as np  # noqa: E402
import oip  # noqa: E402
import onnxruntime  # noqa: E402
import packaged  # noqa: E402
import tables  # noqa: E402
from minilm import during  # noqa: E402

CALLERS = 2
SIDE = 1056
REGIONS = itertools.count()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8, help="of each window")
    parser.add_argument("--rounds", type=int, default=3, help="in process and each way take turns so often")
    options = tables.arguments(parser)
    model = packaged.member(packaged.RAPIDOCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx")
    page = np.random.default_rng(3).random((1, 3, SIDE, SIDE), np.float32)
    with tempfile.TemporaryDirectory(prefix="kserved-shared-") as folder:
        running = kserved.Daemon(pathlib.Path(folder), options.kserved)
        running.add("det", model)
        running.start(config="protocol: {shared_memory: {enabled: true}}\n")
        try:
            rows = measured({"in process": in_process(model, page), **ways(running, page)}, options)
        finally:
            running.stop()
    lines = [
        tables.machine(f"make bench-shared-memory BENCH_ARGS='--seconds {options.seconds:g} --rounds {options.rounds}'"),
        f"One FP32 picture of {page.nbytes / 1e6:.1f} MB a request, {CALLERS} callers in Python, which share the cores; answers of {SIDE}x{SIDE} numbers. "
        "The ways take turns; medians.",
        "",
        *tables.table(["way", "answers/s", "of in-process (goal for shared memory 0.95)"], rows),
    ]
    tables.write(options.output, "shared-memory", "Shared memory", lines)


def measured(makers, options):
    """Answers a second of each way, and its share of the first way's in the same round."""
    rounds = []
    for _ in range(options.rounds):
        rounds.append({way: sum(len(times) for times in during(CALLERS, options.seconds, make)) / options.seconds for way, make in makers.items()})
    first = next(iter(makers))
    of = lambda way, what: statistics.median(what(found, way) for found in rounds)
    return [(way, of(way, lambda found, way: found[way]), of(way, lambda found, way: found[way] / found[first])) for way in makers]


def in_process(model, page):
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda _caller: lambda _index: session.run(None, {name: page})


def ways(running, page):
    """How a caller asks, by the way its picture goes."""
    output = running.client.get("/v2/models/det").json()["outputs"][0]["name"]
    return {
        "shared memory, both ways": lambda _: through_memory(running, page, output),
        "HTTP, binary tensors": lambda _: over(running, "binary", page),
        "gRPC": lambda _: over(running, "grpc", page),
    }


def through_memory(running, page, output):
    client = running.new_client()
    bytes_out, name = 4 * SIDE * SIDE, f"kserved-bench-{next(REGIONS)}"
    region = shared_memory.SharedMemory(name, create=True, size=page.nbytes + bytes_out)
    np.ndarray(page.shape, np.float32, region.buf)[:] = page
    described = {"key": f"/{name}", "offset": 0, "byte_size": region.size}
    client.ok("POST", f"/v2/systemsharedmemory/region/{name}/register", json.dumps(described).encode())
    place = lambda length, offset: {"shared_memory_region": name, "shared_memory_byte_size": length, "shared_memory_offset": offset}
    given = {"name": "x", "shape": list(page.shape), "datatype": "FP32", "parameters": place(page.nbytes, 0)}
    wanted = {"name": output, "parameters": place(bytes_out, page.nbytes)}
    body = json.dumps({"inputs": [given], "outputs": [wanted]}).encode()
    atexit.register(region.unlink)
    return lambda _index: client.ok("POST", "/v2/models/det/infer", body, {"content-type": "application/json"})


def over(running, wire, page):
    client = running.new_client()
    if wire == "grpc":
        return lambda _index: client.infer("grpc", "det", {"x": page})
    body = oip.binary_request({"x": page})
    return lambda _index: client.ok("POST", "/v2/models/det/infer", *body)


if __name__ == "__main__":
    main()
