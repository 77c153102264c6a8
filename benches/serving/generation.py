"""A language model on kserved and on llama.cpp's server: tokens per second, time to the first token, memory.

Run with `make bench-generation`. SmolLM2-135M-Instruct (Q4_1), both with as many threads as there are cores, in turn. Rates are wall-clock: all
tokens of all users over the time until the last is done.
"""

import argparse
import json
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

import daemon
import packaged
import tables

WORDS = 330  # 1,211 tokens of SmolLM2
USERS = 8
LONG_TOKENS = 1000
# 30 layers, keys and values, 3 heads of 64 numbers in half precision.
BYTES_PER_TOKEN = 30 * 2 * 3 * 64 * 2
HEADS = ["server", "1 user, tokens/s", "8 users, tokens/s", "long prompt, ms to the first token", "load to Ready, s"]


def main():
    options = arguments()
    file = options.gguf or packaged.smollm2()
    if options.llama_cpp:
        return serve_llama_cpp(file)
    with tempfile.TemporaryDirectory(prefix="kserved-bench-") as folder:
        ours, theirs = Kserved(options.kserved, file, pathlib.Path(folder)), LlamaCpp(file)
        rows = measured([ours, theirs], 1 if options.quick else 3)
        theirs.stop()
        ours.stop()
        # A model that nobody asked: what it remembers takes memory only as it is used, and stays.
        fresh = Kserved(options.kserved, file, pathlib.Path(folder) / "fresh")
        memory = fresh.memory()
        fresh.stop()
    tables.write(options.output, "generation", "Language models on the two servers", [*report(rows, memory, file, options)])


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", type=pathlib.Path, help="another file of the same model, e.g. of another type")
    parser.add_argument("--quick", action="store_true", help="one turn: to see that it runs")
    parser.add_argument("--llama-cpp", action="store_true", help=argparse.SUPPRESS)
    return tables.arguments(parser)


class Kserved:
    name = "kserved"

    def __init__(self, binary, file, folder):
        self.server = daemon.Daemon(folder, binary)
        self.server.start()
        model = {"modelFormat": {"name": "gguf"}, "storageUri": f"file://{file}"}
        self.began = time.perf_counter()
        manifest = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "smol"}}
        self.server.write("smol.yaml", json.dumps(manifest | {"spec": {"predictor": {"model": model}}}))
        self.server.wait_ready("smol", within_s=60)
        self.load_s = time.perf_counter() - self.began
        self.base = f"http://127.0.0.1:{self.server.ports['http']}/openai/v1"

    def memory(self):
        """Bytes that eight long answers take beside what a model has that nobody asked yet, and the keys and values among them."""
        before = self.anonymous()
        rate(self.base, USERS, LONG_TOKENS, "Tell me of the sea")
        return self.anonymous() - before, USERS * (LONG_TOKENS + 6) * BYTES_PER_TOKEN

    def anonymous(self):
        status = pathlib.Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) * 1024

    def stop(self):
        self.server.stop()


class LlamaCpp:
    name = "llama.cpp"

    def __init__(self, file):
        began = time.perf_counter()
        command = [sys.executable, __file__, "--llama-cpp", "--gguf", str(file)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.base = next(line for line in self.process.stdout if line.startswith("http")).strip() + "/v1"
        self.load_s = time.perf_counter() - began

    def stop(self):
        self.process.kill()
        self.process.wait()


def serve_llama_cpp(file):
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.n_gpu_layers = str(file), 2048 * USERS, USERS, 0
    params.model_alias, params.cache_prompt = {"smol"}, False
    server = xllamacpp.Server(params)
    address = str(server.listening_address)
    print(address if address.startswith("http") else f"http://{address}", flush=True)
    sys.stdin.read()


def stream(base, prompt, tokens):
    """Asks once; gives the seconds until the first piece of text."""
    body = {"model": "smol", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    request = urllib.request.Request(base + "/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    began, first = time.perf_counter(), None
    with urllib.request.urlopen(request) as answer:
        for line in answer:
            if line.startswith(b"data:") and first is None:
                first = time.perf_counter() - began
    return first


def rate(base, users, tokens, prompt):
    """Tokens per second of all users together."""
    callers = [threading.Thread(target=stream, args=(base, f"{prompt} {user}", tokens)) for user in range(users)]
    began = time.perf_counter()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return users * tokens / (time.perf_counter() - began)


def measured(servers, rounds):
    """Medians of all turns, server by server."""
    long = " ".join(f"word{number}" for number in range(WORDS))
    seen = {server.name: [] for server in servers}
    for turn in range(rounds):
        for server in servers:
            one, eight = rate(server.base, 1, 128, f"Once upon a time {turn}"), rate(server.base, USERS, 64, f"The story number {turn}")
            seen[server.name].append((one, eight, stream(server.base, f"{turn} {long}", 2) * 1000))
    loads = {server.name: server.load_s for server in servers}
    return {name: [*(statistics.median(column) for column in zip(*turns)), loads[name]] for name, turns in seen.items()}


def report(rows, memory, file, options):
    yield tables.machine("make bench-generation")
    yield ""
    yield f"`{file.name}`, medians of {1 if options.quick else 3} turns, in turn; the long prompt has 1,211 tokens. llama.cpp's start has that of Python in it."
    yield ""
    ours, theirs = rows["kserved"], rows["llama.cpp"]
    ratios = [f"{one / other:.2f}" for one, other in zip(ours[:3], theirs[:3])]
    yield from tables.table(HEADS, [["kserved", *ours], ["llama.cpp", *theirs], ["kserved of llama.cpp (goals 1.0, 1.5, at most 1.0)", *ratios, "–"]])
    taken, arithmetic = memory
    yield ""
    yield (f"{USERS} answers of {LONG_TOKENS:,} tokens took {taken / 2**20:.0f} MiB of memory beside a loaded model; their keys and values are "
           f"{arithmetic / 2**20:.0f} MiB: {taken / arithmetic:.2f} (goal 1.05).")  # fmt: skip


if __name__ == "__main__":
    main()
