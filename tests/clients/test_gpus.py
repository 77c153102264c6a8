"""A service that asks for a GPU says where it computes; where there is none, the settings decide what becomes of it."""

import json
import re
import subprocess

import language_models
import numpy as np
import pytest
import tiny_encoders
import tiny_t5
from daemon import BINARY, ROOT
from test_generation import TOKENS, answers, completion

# With a build that has the code for GPUs, on a machine that has one, the driver is told to show none.
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
# What a build without the code for GPUs says, one with it on a machine without a driver, and one whose driver shows none.
NO_GPU_HINTS = "hint: `make cuda` builds one|hint: install NVIDIA's driver|hint: `nvidia-smi` shows the GPUs|hint: set `onnx.library`"
IRIS = ROOT / "models" / "iris"
FLOWER = np.array([[5.1, 3.5, 1.4, 0.2]], dtype=np.float32)


def write(daemon, name, kind, uri, gpus="1"):
    resources = {"limits": {"nvidia.com/gpu": gpus}} if gpus else {}
    model = {"modelFormat": {"name": kind}, "storageUri": uri, "protocolVersion": "v2", "resources": resources}
    service = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": name}}
    daemon.write(f"{name}.yaml", json.dumps(service | {"spec": {"predictor": {"model": model}}}))


def write_all(daemon):
    """One model for each engine; gives what they must answer."""
    llama = language_models.Reference("llama", language_models.write(daemon.models / "llama", "llama", 7))
    encoder = tiny_encoders.Reference("bert", "text_embedding", tiny_encoders.make(daemon.models / "bert", "bert", "text_embedding"))
    t5 = tiny_t5.Reference("t5", tiny_t5.write(daemon.models / "t5", "t5", 10))
    for name, kind, uri in [("llama", "huggingface", "llama"), ("bert", "huggingface", "bert"), ("t5", "huggingface", "t5"), ("iris", "onnx", str(IRIS))]:
        write(daemon, name, kind, uri)
    return llama, encoder, t5


def status_of(daemon, name):
    return (daemon.resource(name) or {}).get("status", {})


def test_a_model_that_asks_for_a_gpu_where_there_is_none_serves_on_the_cpu_and_says_why(daemon):
    llama, encoder, t5 = write_all(daemon)
    write(daemon, "modest", "onnx", str(IRIS), gpus=None)
    daemon.start(environment=NO_GPU)
    for name in ["llama", "bert", "t5", "iris", "modest"]:
        daemon.wait_ready(name)
    for name in ["llama", "bert", "t5", "iris"]:
        told = daemon.condition(name, "GpuInUse")
        assert (told["status"], told["reason"], told["severity"]) == ("False", "NoGpu", "Info"), told
        assert told["message"].startswith("the model computes on the CPU: "), told
        expected = "a T5 is served on the CPU only" if name == "t5" else NO_GPU_HINTS
        assert re.search(expected, told["message"]), told
    assert daemon.condition("modest", "GpuInUse") is None, "who asks for none is told nothing"
    tokens, _ = llama.answer(language_models.ids("Hello,world"), TOKENS)
    expected = "".join(language_models.LETTERS[token] for token in tokens)
    assert completion(daemon.client, "llama", "Hello,world", max_tokens=TOKENS, ignore_eos=True)["text"] == expected
    found = daemon.client.infer("json", "bert", {"text": np.array([b"dog"], dtype=object)})["output-0"][0]
    np.testing.assert_allclose(found, encoder.answer("dog"), rtol=1e-4, atol=1e-4)
    expected = tiny_t5.text_of(t5.answer(tiny_t5.ids("Hello world"), TOKENS)[0])
    assert answers(daemon.client, "t5", ["Hello world"], max_tokens=TOKENS, ignore_eos=True) == [expected]
    assert daemon.client.infer("json", "iris", {"measurements": FLOWER})["species"][0] == b"setosa"


def test_a_model_that_must_have_a_gpu_does_not_load_without_one_and_says_what_to_do(daemon):
    write_all(daemon)
    write(daemon, "modest", "onnx", str(IRIS), gpus=None)
    daemon.start(config="gpu: {absent: fail}\n", environment=NO_GPU)
    daemon.wait_ready("modest")
    for name in ["llama", "bert", "t5", "iris"]:
        failed = lambda name=name: status_of(daemon, name).get("modelStatus", {}).get("lastFailureInfo")
        told = daemon.wait_for(failed, 20, f"says why {name} has no GPU")
        assert "no GPU for it: " in told["message"], told
        assert re.search("a T5 is served on the CPU only" if name == "t5" else NO_GPU_HINTS, told["message"]), told
        ready = daemon.condition(name)
        assert ready["status"] == "False" and daemon.client.get(f"/v2/models/{name}/ready").status != 200, ready
        assert daemon.condition(name, "GpuInUse") is None, "it computes nowhere"
    assert daemon.client.infer("json", "modest", {"measurements": FLOWER})["species"][0] == b"setosa"
    # With less asked for the same model loads.
    write(daemon, "iris", "onnx", str(IRIS), gpus="0")
    daemon.wait_ready("iris")


def test_no_model_gets_a_gpu_where_the_settings_say_so_and_all_may_where_they_can(daemon):
    write(daemon, "iris", "onnx", str(IRIS))
    daemon.start(config="gpu: {models: none, absent: fail}\n", environment=NO_GPU)
    daemon.wait_ready("iris")
    told = daemon.condition("iris", "GpuInUse")
    assert told["message"] == "the model computes on the CPU: `gpu.models` is `none` in the daemon's settings", told
    assert daemon.stop() == 0
    write(daemon, "iris", "onnx", str(IRIS), gpus=None)
    daemon.start(config="gpu: {models: all, absent: fail}\n", environment=NO_GPU)
    daemon.wait_ready("iris")
    assert daemon.condition("iris", "GpuInUse") is None, "a model that asks for no GPU computes on the CPU without a word"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("gpu:\n  modles: all\n", ["config.yaml:2:3: ", "`modles`", "did you mean `models`?"]),
        ("gpu:\n  models: sometimes\n", ["config.yaml:2:11: ", "`sometimes`", "`asked`, `all`, `none`"]),
        ("# any\ngpu: {absent: gpu}\n", ["config.yaml:2:15: ", "`gpu`", "did you mean `cpu`?"]),
        ("gpu: true\n", ["config.yaml:1:6: "]),
    ],
)
def test_wrong_settings_of_gpus_are_told_with_their_place(tmp_path, settings, expected):
    file = tmp_path / "config.yaml"
    file.write_text(settings)
    done = subprocess.run([BINARY, "serve", "--config", file, "--models", tmp_path], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2, done
    for part in expected:
        assert part in done.stderr, done.stderr
