"""Language models answer as independent references do: tiny ones of every family by numpy in double precision, SmolLM2 by llama.cpp."""

import http.client
import json
import threading

import language_models
import numpy as np
import packaged
import pytest
import tiny_t5
from daemon import Daemon, of_format

SEEDS = {"llama": 7, "mistral": 13, "qwen2": 25, "qwen3": 35, "gemma": 41, "gemma2": 51, "gemma3": 61, "phi3": 75}
T5_SEEDS = {"t5": 10, "flan": 7}
T5_PROMPTS = ["Hello world", "x", "The quick brown fox jumps over the lazy dog. The quick brown fox jumps over it again and again and again."]
PROMPTS = ["Hello,world", "x", "The_quick_brown_fox_jumps_over_the_lazy_dog"]
TOKENS = 16

# What llama.cpp (xllamacpp 2026.10) answers greedily, as far as no two tokens are nearly as likely.
SMOLLM2 = {
    "The capital of France is": " Paris.",
    "def fibonacci(n):": "\n    if n == 0:\n        return",
    "Once upon a time there was": " a small town nestled between two mountains.",
    "<|im_start|>user\nWhat is the capital of Japan?<|im_end|>\n<|im_start|>assistant\n": "The capital of Japan is Tokyo.",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """One daemon with a tiny model of each family, their references, and SmolLM2."""
    daemon = Daemon(tmp_path_factory.mktemp("generation"))
    daemon.references = {}
    for family, seed in SEEDS.items():
        weights = language_models.write(daemon.models / family, family, seed)
        daemon.references[family] = language_models.Reference(family, weights)
        daemon.write(f"{family}.yaml", of_format(family, "huggingface", family))
    for kind, seed in T5_SEEDS.items():
        weights = tiny_t5.write(daemon.models / kind, kind, seed)
        daemon.references[kind] = tiny_t5.Reference(kind, weights)
        daemon.write(f"{kind}.yaml", of_format(kind, "huggingface", kind))
    file = packaged.smollm2()
    daemon.write("smol.yaml", of_format("smol", "gguf", f"file://{file}"))
    daemon.start()
    for name in [*SEEDS, *T5_SEEDS, "smol"]:
        daemon.wait_ready(name, within_s=120)
    yield daemon
    assert daemon.stop() == 0


def answers(client, model, texts, **parameters):
    inputs = [{"name": "text_input", "datatype": "BYTES", "shape": [len(texts)], "data": texts}]
    answer = client.request("POST", f"/v2/models/{model}/infer", json.dumps({"inputs": inputs, "parameters": parameters}))
    assert answer.status == 200, answer.body
    return answer.json()["outputs"][0]["data"]


@pytest.mark.parametrize("family", SEEDS)
def test_every_family_says_what_numpy_says_alone_and_among_others(served, family):
    expected = []
    for prompt in PROMPTS:
        tokens, _ = served.references[family].answer(language_models.ids(prompt), TOKENS)
        expected.append("".join(language_models.LETTERS[token] for token in tokens))
    options = {"max_tokens": TOKENS, "ignore_eos": True}
    assert answers(served.client, family, PROMPTS, **options) == expected
    assert [answers(served.client, family, [prompt], **options)[0] for prompt in PROMPTS] == expected


def completion(client, model, prompt, **more):
    body = {"model": model, "prompt": prompt, "temperature": 0} | more
    answer = client.request("POST", "/openai/v1/completions", json.dumps(body))
    assert answer.status == 200, answer.body
    return answer.json()["choices"][0]


def log_probability(logits, token):
    return logits[token] - logits.max() - np.log(np.exp(logits - logits.max()).sum())


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("family", SEEDS)
def test_log_probabilities_are_those_of_numpy(served, family, prompt):
    logits = served.references[family].logits(language_models.ids(prompt))
    expected = log_probability(logits, int(np.argmax(np.where(np.arange(len(logits)) == language_models.END, -np.inf, logits))))
    found = completion(served.client, family, prompt, max_tokens=1, logprobs=1, ignore_eos=True)["logprobs"]["token_logprobs"][0]
    assert abs(found - expected) < 0.01, (found, expected)


@pytest.mark.parametrize("kind", T5_SEEDS)
def test_a_t5_says_what_numpy_says_alone_and_among_others(served, kind):
    reference = served.references[kind]
    expected = [tiny_t5.text_of(reference.answer(tiny_t5.ids(prompt), TOKENS)[0]) for prompt in T5_PROMPTS]
    options = {"max_tokens": TOKENS, "ignore_eos": True}
    assert answers(served.client, kind, T5_PROMPTS, **options) == expected
    assert [answers(served.client, kind, [prompt], **options)[0] for prompt in T5_PROMPTS] == expected
    for prompt, text in zip(T5_PROMPTS, expected):
        logits = reference.logits(reference.encode(tiny_t5.ids(prompt)), [tiny_t5.PAD])
        logits[tiny_t5.END], whole = -np.inf, logits.copy()
        found = completion(served.client, kind, prompt, max_tokens=TOKENS, logprobs=1, ignore_eos=True)
        assert found["text"] == text
        assert abs(found["logprobs"]["token_logprobs"][0] - log_probability(whole, int(np.argmax(logits)))) < 0.01


@pytest.mark.parametrize("kind", T5_SEEDS)
def test_a_t5_streams_stops_and_draws_by_seed(served, kind):
    whole = completion(served.client, kind, T5_PROMPTS[2], max_tokens=TOKENS, ignore_eos=True)["text"]
    body = {"model": kind, "prompt": T5_PROMPTS[2], "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "stream": True}
    stream = served.client.request("POST", "/openai/v1/completions", json.dumps(body)).body.decode()
    pieces = [json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line.startswith("data: {")]
    assert "".join(piece["choices"][0]["text"] for piece in pieces if piece["choices"]) == whole
    stop = whole[5:7]
    stopped = completion(served.client, kind, T5_PROMPTS[2], max_tokens=TOKENS, ignore_eos=True, stop=stop)
    assert (stopped["text"], stopped["finish_reason"]) == (whole[: whole.index(stop)], "stop")
    drawn = [completion(served.client, kind, "x", max_tokens=TOKENS, temperature=1.5, seed=seed, ignore_eos=True)["text"] for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_t5_holds_no_conversation_and_is_no_decoder(served):
    body = json.dumps({"model": "t5", "messages": [{"role": "user", "content": "x"}]})
    answer = served.client.request("POST", "/openai/v1/chat/completions", body)
    assert answer.status == 400 and answer.json()["error"]["message"] == "Model t5 does not support Chat Completions API", answer.body
    echo = json.dumps({"model": "t5", "prompt": "x", "echo": True})
    refused = served.client.request("POST", "/openai/v1/completions", echo)
    assert (refused.status, refused.json()["error"]["param"]) == (400, "echo"), refused.body
    model = {"modelFormat": {"name": "huggingface"}, "storageUri": "t5", "args": ["--task=text_generation"]}
    spec = {"predictor": {"model": model}}
    served.write("continues.yaml", json.dumps({"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "continues"}, "spec": spec}))
    expected = "a model of type `t5` is for task `text2text_generation`, not `text_generation`"
    served.wait_for(lambda: expected in served.log.read_text(), 20, "says that a T5 is no decoder")


def test_a_t5_that_runs_out_of_room_gives_the_same_answers(tmp_path):
    daemon = Daemon(tmp_path)
    reference = tiny_t5.Reference("flan", tiny_t5.write(daemon.models / "flan", "flan", T5_SEEDS["flan"]))
    daemon.write("flan.yaml", of_format("flan", "huggingface", "flan"))
    # Room for two prompts of 108 tokens and their answers at most; a block of sixteen tokens is 18,432 bytes.
    daemon.start(config=f"generation:\n  kv_bytes_max: {24 * 18432}\n")
    daemon.wait_ready("flan", within_s=60)
    expected = tiny_t5.text_of(reference.answer(tiny_t5.ids(T5_PROMPTS[2]), 80)[0])
    texts = answers(daemon.client, "flan", [T5_PROMPTS[2]] * 6, max_tokens=80, ignore_eos=True)
    assert texts == [expected] * 6
    metrics = daemon.client.get("/metrics").body.decode()
    preempted = next(line for line in metrics.splitlines() if line.startswith("vllm:num_preemptions_total"))
    assert float(preempted.rsplit(" ", 1)[1]) > 0, "the bound makes answers give way"
    too_long = completion_error(daemon.client, "flan", "x" * 300)
    assert "maximum prompt length is 176 tokens" in too_long, too_long
    assert daemon.stop() == 0


def half_service(daemon, name, dtype):
    model = {"modelFormat": {"name": "huggingface"}, "storageUri": "llama", "args": [f"--dtype={dtype}"], "protocolVersion": "v2"}
    spec = {"predictor": {"model": model}}
    metadata = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": name}}
    daemon.write(f"{name}.yaml", json.dumps(metadata | {"spec": spec}))


def as_bfloat16(weights):
    """Cuts matrices to the upper half of a single, to the nearest even one."""

    def cut(numbers):
        bits = numbers.astype(np.float32).view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)

    return {name: cut(value) if value.ndim == 2 else value for name, value in weights.items()}


def test_a_dtype_of_half_the_width_rounds_the_weights_and_float32_rounds_nothing(served):
    for dtype in ("float16", "bfloat16", "float32"):
        half_service(served, f"llama-{dtype}", dtype)
    weights = language_models.weights_of(language_models.FAMILIES["llama"], SEEDS["llama"])
    rounded = {
        "float16": {name: value.astype(np.float16).astype(np.float32) if value.ndim == 2 else value for name, value in weights.items()},
        "bfloat16": as_bfloat16(weights),
        "float32": weights,
    }
    found = {}
    for dtype, numbers in rounded.items():
        served.wait_ready(f"llama-{dtype}", within_s=60)
        logits = language_models.Reference("llama", numbers).logits(language_models.ids("Hello,world"))
        answer = completion(served.client, f"llama-{dtype}", "Hello,world", max_tokens=1, logprobs=1, ignore_eos=True)["logprobs"]
        found[dtype] = answer["token_logprobs"][0]
        token = language_models.ids(answer["tokens"][0])[0]
        assert abs(found[dtype] - log_probability(logits, token)) < 0.01, (dtype, found[dtype], log_probability(logits, token))
    plain = completion(served.client, "llama", "Hello,world", max_tokens=1, logprobs=1, ignore_eos=True)["logprobs"]["token_logprobs"][0]
    assert found["float32"] == plain and found["bfloat16"] != plain


def test_a_gguf_files_types_are_its_own(served):
    file = packaged.smollm2()
    model = {"modelFormat": {"name": "gguf"}, "storageUri": f"file://{file}", "args": ["--dtype=half"]}
    metadata = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "halved"}}
    served.write("halved.yaml", json.dumps(metadata | {"spec": {"predictor": {"model": model}}}))
    expected = "`--dtype` takes `auto` or `float32` with it"
    served.wait_for(lambda: expected in served.log.read_text(), 20, "says that the file has its types")


def test_a_new_revision_lets_the_old_one_finish_what_it_writes(served):
    """A stream that began before a swap ends with the old model's words, while new requests go to the new one."""
    smollm2 = packaged.smollm2()
    served.write("swapped.yaml", of_format("swapped", "gguf", f"file://{smollm2}"))
    served.wait_ready("swapped", within_s=60)
    count, started, texts = 24, threading.Event(), []
    body = {"prompt": "Once upon a time", "max_tokens": count, "temperature": 0, "ignore_eos": True}

    def read():
        connection = http.client.HTTPConnection("127.0.0.1", served.ports["http"], timeout=60)
        asked = json.dumps(body | {"model": "swapped", "stream": True})
        connection.request("POST", "/openai/v1/completions", asked, {"content-type": "application/json"})
        for line in connection.getresponse():
            if line.startswith(b"data: {"):
                texts.append(json.loads(line[6:])["choices"][0]["text"])
                started.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert started.wait(30)
    served.write("swapped.yaml", of_format("swapped", "huggingface", "llama"))
    ask = {"max_tokens": 8, "ignore_eos": True}
    after = answers(served.client, "llama", ["x"], **ask)
    served.wait_for(lambda: answers(served.client, "swapped", ["x"], **ask) == after, 30, "answers with the new model")
    written = len(texts)
    reader.join(60)
    assert written < count, "the new one answers while the old one writes"
    assert "".join(texts) == completion(served.client, "smol", **body)["text"]


def completion_error(client, model, prompt):
    answer = client.request("POST", "/openai/v1/completions", json.dumps({"model": model, "prompt": prompt}))
    assert answer.status == 400, answer.body
    return answer.body.decode()


@pytest.mark.parametrize("prompt", SMOLLM2)
def test_smollm2_says_what_llama_cpp_says(served, prompt):
    text = answers(served.client, "smol", [prompt], max_tokens=10)[0]
    assert text.startswith(SMOLLM2[prompt]) or SMOLLM2[prompt].startswith(text), text


def test_v1_takes_texts_and_gives_texts(served):
    answer = served.client.request("POST", "/v1/models/smol:predict", json.dumps({"instances": ["The capital of France is"]}))
    assert answer.status == 200 and answer.json()["predictions"][0].startswith(" Paris."), answer.body


def test_seeds_repeat_while_others_write(served):
    options = {"max_tokens": TOKENS, "temperature": 1.0, "seed": 7, "ignore_eos": True}
    alone = answers(served.client, "llama", ["x"], **options)
    beside = threading.Thread(target=lambda: answers(served.new_client(), "llama", PROMPTS * 4, max_tokens=60, ignore_eos=True))
    beside.start()
    again = answers(served.client, "llama", ["x"], **options)
    beside.join()
    assert alone == again
