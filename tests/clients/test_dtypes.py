"""Every family rounds its weights as `--dtype` says; of a model that sees pictures too the text part is served."""

import json

import language_models
import numpy as np
import pytest
import tiny_t5
from daemon import Daemon, hugging_face
from test_generation import SEEDS, T5_PROMPTS, T5_SEEDS, answers, as_bfloat16, completion, log_probability

FAMILIES = ["qwen2", "qwen3", "gemma", "phi3", "t5"]
DTYPES = ["auto", "float32", "float16", "bfloat16"]
PROMPT = "Hello,world"


def as_float16(weights):
    return {name: value.astype(np.float16).astype(np.float32) if value.ndim == 2 else value for name, value in weights.items()}


ROUNDED = {"auto": dict, "float32": dict, "float16": as_float16, "bfloat16": as_bfloat16}


def write_with_pictures(folder):
    """The tiny Gemma 3 as its makers publish it: the text part below a name of its own, beside a part that sees."""
    weights = language_models.write(folder, "gemma3", SEEDS["gemma3"])
    named = {f"language_model.{name}": value for name, value in weights.items()}
    language_models.save_file(named | {"vision_tower.patch.weight": np.ones((2, 2), np.float32)}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    seeing = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "vision_config": {"hidden_size": 2}}
    (folder / "config.json").write_text(json.dumps(seeing | {"text_config": config | {"model_type": "gemma3_text"}}))
    return weights


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Each family once, served in each type; and the Gemma 3 that sees pictures."""
    daemon = Daemon(tmp_path_factory.mktemp("dtypes"))
    daemon.weights = {}
    for family in FAMILIES:
        write, seed = (tiny_t5.write, T5_SEEDS["t5"]) if family == "t5" else (language_models.write, SEEDS[family])
        daemon.weights[family] = write(daemon.models / family, family, seed)
        for dtype in DTYPES:
            daemon.write(f"{family}-{dtype}.yaml", hugging_face(f"{family}-{dtype}", family, f"--dtype={dtype}"))
    daemon.weights["seeing"] = write_with_pictures(daemon.models / "seeing")
    daemon.write("seeing.yaml", hugging_face("seeing", "seeing"))
    daemon.start(config="generation: {kv_bytes_max: 4194304}\n")
    for name in [f"{family}-{dtype}" for family in FAMILIES for dtype in DTYPES]:
        daemon.wait_ready(name, within_s=120)
    yield daemon
    assert daemon.stop() == 0


def first(family, weights):
    """Log-probabilities of the first token of an answer."""
    if family == "t5":
        reference = tiny_t5.Reference("t5", weights)
        logits = reference.logits(reference.encode(tiny_t5.ids(T5_PROMPTS[0])), [tiny_t5.PAD])
        end, letters = tiny_t5.END, tiny_t5.text_of
    else:
        logits = language_models.Reference(family, weights).logits(language_models.ids(PROMPT))
        end, letters = language_models.END, lambda tokens: language_models.LETTERS[tokens[0]]
    token = int(np.argmax(np.where(np.arange(len(logits)) == end, -np.inf, logits)))
    return letters([token]), log_probability(logits, token)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_rounds_as_numpy_rounds_or_not_at_all(served, family):
    found = {}
    for dtype in DTYPES:
        prompt = T5_PROMPTS[0] if family == "t5" else PROMPT
        answer = completion(served.client, f"{family}-{dtype}", prompt, max_tokens=1, logprobs=1, ignore_eos=True)
        found[dtype] = answer["logprobs"]["token_logprobs"][0]
        text, expected = first(family, ROUNDED[dtype](served.weights[family]))
        assert answer["text"] == text, dtype
        assert abs(found[dtype] - expected) < 0.01, (dtype, found[dtype], expected)
    assert found["auto"] == found["float32"], "weights of single precision stay as they are"
    assert len({found["float32"], found["float16"], found["bfloat16"]}) == 3, found


def test_a_type_that_is_none_is_told(served):
    served.write("wrong.yaml", hugging_face("wrong", "qwen2", "--dtype=float8"))
    expected = "no such dtype: `float8`; there are `auto`, `float32`, `float`, `float16`, `half`, `bfloat16`"
    told = lambda: expected in json.dumps((served.resource("wrong") or {}).get("status", {}))
    served.wait_for(told, 20, "says which types there are")


def test_the_text_part_of_a_model_that_sees_pictures_says_what_numpy_says(served):
    served.wait_ready("seeing", within_s=60)
    tokens, _ = language_models.Reference("gemma3", served.weights["seeing"]).answer(language_models.ids(PROMPT), 16)
    expected = "".join(language_models.LETTERS[token] for token in tokens)
    assert answers(served.client, "seeing", [PROMPT], max_tokens=16, ignore_eos=True) == [expected]
