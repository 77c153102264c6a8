"""How near kserved and llama.cpp come to what a GGUF file's weights say, and to each other.

Run with `make bench-agreement`. SmolLM2-135M-Instruct (Q4_1, head Q8_0) reads twelve texts. At each of their tokens there is a token that is
likeliest by the weights in double precision; how likely each server finds that token, and whether it finds it the likeliest too, is compared.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "clients"))

import daemon
import numpy as np
import packaged
import tables
from gguf_llama import Llama, log_probabilities

TEXTS = [
    "The capital of France is Paris, and the river that runs through it is the Seine.",
    "def fibonacci(n):\n    if n == 0:\n        return 0\n    return fibonacci(n - 1)",
    "Once upon a time there was a small town between two mountains, and nobody ever left it.",
    "<|im_start|>user\nWhat is the capital of Japan?<|im_end|>\n<|im_start|>assistant\nThe capital of Japan is Tokyo.",
    "<|im_start|>user\nWrite a haiku about the sea.<|im_end|>\n<|im_start|>assistant\nThe ocean's a mirror",
    "Water boils at one hundred degrees because its vapour then presses as hard as the air.",
    "Dear Sir or Madam, I am writing to tell you that the parcel which I ordered has not arrived.",
    "SELECT name, COUNT(*) FROM orders WHERE year = 2024 GROUP BY name ORDER BY 2 DESC;",
    "Bees live in colonies with one queen, some hundred drones and many thousands of workers.",
    "She opened the letter, read it twice, and then laid it on the table without a word.",
    "In 1969 two people walked on the Moon for the first time while a third one circled above them.",
    "To make bread you need flour, water, salt and yeast; mix them, wait, and bake for an hour.",
]
TOP, ANSWER_TOKENS = 20, 16
# Attention in one piece or by steps, keys and values in half or single precision.
LLAMA_CPP = {"llama.cpp as it comes": {}, "llama.cpp, plain attention, keys and values f32": {"plain": True}}


def main():
    options = arguments()
    file = options.gguf or packaged.smollm2()
    texts = TEXTS[: options.texts]
    if options.llama_cpp is not None:
        return ask_llama_cpp(file, texts, LLAMA_CPP[options.llama_cpp], options.out)
    with tempfile.TemporaryDirectory() as folder:
        seen = {name: in_a_process(name, file, options.texts, pathlib.Path(folder) / f"{at}.json") for at, name in enumerate(LLAMA_CPP)}
        ids = next(iter(seen.values()))["ids"]
        seen["kserved"] = ask_kserved(options.kserved, file, pathlib.Path(folder), ids)
    lines = [f"`{file.name}`.", "", *report(Llama(file), ids, seen)]
    tables.write(options.output, "agreement", "What the weights say, and what servers answer", [tables.machine("make bench-agreement"), "", *lines])


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", type=pathlib.Path, help="the same model in other types (see requantise.py)")
    parser.add_argument("--texts", type=int, default=len(TEXTS), help="how many of the texts")
    parser.add_argument("--llama-cpp", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=pathlib.Path, help=argparse.SUPPRESS)
    return tables.arguments(parser)


def in_a_process(name, file, texts, out):
    """llama.cpp keeps state in its process, so each setting has one of its own."""
    command = [sys.executable, __file__, "--llama-cpp", name, "--out", out, "--gguf", file, "--texts", str(texts)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return json.loads(out.read_text())


def ask_llama_cpp(file, texts, settings, out):
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.n_gpu_layers, params.warmup = str(file), 1024, 1, 0, False
    # Its threads wait for each other by looking; one does not care what else runs.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    if settings.get("plain"):
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(params)
    address = str(server.listening_address)
    base = address if address.startswith("http") else f"http://{address}"
    ids = [post(f"{base}/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"] for text in texts]
    ask = {"temperature": 0, "n_probs": TOP, "cache_prompt": False}

    def after(prompt):
        first = post(f"{base}/completion", ask | {"prompt": prompt, "n_predict": 1})["completion_probabilities"][0]
        return {token["id"]: token["logprob"] for token in first["top_logprobs"]}

    rows = [[after(tokens[: at + 1]) for at in range(len(tokens))] for tokens in ids]
    answers = [post(f"{base}/completion", ask | {"prompt": tokens, "n_predict": ANSWER_TOKENS, "ignore_eos": True})["content"] for tokens in ids]
    out.write_text(json.dumps({"ids": ids, "rows": rows, "answers": answers}))
    # Its threads do not always end.
    os._exit(0)


def ask_kserved(binary, file, folder, ids):
    server = daemon.Daemon(folder, binary)
    model = {"modelFormat": {"name": "gguf"}, "storageUri": f"file://{file}"}
    manifest = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "smol"}, "spec": {"predictor": {"model": model}}}
    server.write("smol.yaml", json.dumps(manifest))
    server.start()
    server.wait_ready("smol", within_s=60)
    url = f"http://127.0.0.1:{server.ports['http']}/openai/v1/completions"

    def ask(tokens, **more):
        return post(url, {"model": "smol", "prompt": tokens, "temperature": 0} | more)["choices"][0]

    rows = [[ask(tokens[: at + 1], max_tokens=1, logprobs=TOP, ignore_eos=True)["logprobs"]["top_logprobs"][0] for at in range(len(tokens))] for tokens in ids]
    answers = [ask(tokens, max_tokens=ANSWER_TOKENS, ignore_eos=True)["text"] for tokens in ids]
    server.stop()
    return {"rows": rows, "answers": answers}


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)


def report(model, ids, seen):
    """One row for each way to compute, held against double precision."""
    exact = [log_probabilities(model.logits(tokens)) for tokens in ids]
    best = [rows.argmax(-1) for rows in exact]
    # kserved names tokens by their text, llama.cpp by their number too, and shows no special ones.
    ways = {name: found["rows"] if name == "kserved" else [[{model.texts[int(token)]: value for token, value in row.items()} for row in rows] for rows in found["rows"]]
            for name, found in seen.items()}  # fmt: skip
    eight = {
        "8 bits, the rest in double precision": {},
        "the same, embeddings moved by one part in ten million": {"nudge": 1e-7},
        "the same, halves rounded away from 0": {"ties_away": True},
        "the same, keys and values in half precision": {"half_kv": True},
        "the same, scales of the 8 bits in single precision": {"half_scale": False},
    }
    for name, how in eight.items():
        ways[name] = [log_probabilities(model.logits(tokens, rounded=True, **how)) for tokens in ids]
    found = {name: measured(model, way, exact, best) for name, way in ways.items()}
    count = sum(map(len, ids))
    yield f"{len(ids)} texts, {count} tokens. Log-probability of the token that is likeliest in double precision, as differences from double precision:"
    yield ""
    yield from tables.table(["computed by", "root mean square", "mean", "largest", "the same token is likeliest"], [
        [name, *(f"{value:.4f}" for value in (np.sqrt(np.mean(off**2)), off.mean(), np.abs(off).max())), f"{same} of {count}"]
        for name, (off, same) in found.items()
    ])  # fmt: skip
    yield ""
    yield "The same differences from one another (root mean square; largest; greedy answers of 16 tokens that are equal):"
    yield ""
    names = list(seen)
    pairs = [(one, other) for at, one in enumerate(names) for other in names[at + 1 :]]
    rows = [[f"{one} and {other}", *between(found[one][0], found[other][0]), equal(seen[one], seen[other])] for one, other in pairs]
    first, second = list(eight)[:2]
    rows.append([f"8 bits and {second}", *between(found[first][0], found[second][0]), "–"])
    yield from tables.table(["pair", "root mean square", "largest", "equal answers"], rows)


def measured(model, way, exact, best):
    """Differences at each token, and how often the same token is likeliest."""
    off, same = [], 0
    for text, rows, tokens in zip(way, exact, best):
        for row, right, token in zip(text, rows, tokens):
            if isinstance(row, dict):
                # One that was not told was below all that were.
                name = model.texts[token]
                told, likeliest = row.get(name, min(row.values())), max(row, key=row.get) == name
            else:
                told, likeliest = row[token], row.argmax() == token
            off.append(told - right[token])
            same += int(likeliest)
    return np.array(off), same


def between(one, other):
    return f"{np.sqrt(np.mean((one - other) ** 2)):.4f}", f"{np.abs(one - other).max():.4f}"


def equal(one, other):
    return f"{sum(a == b for a, b in zip(one['answers'], other['answers']))} of {len(one['answers'])}"


if __name__ == "__main__":
    main()
