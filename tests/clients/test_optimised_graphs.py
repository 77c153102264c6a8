"""The second start of the daemon takes real models from their kept optimised graphs, and answers to the last bit the same."""

import re

import numpy as np
import packaged
import pytest
from daemon import FIXTURES

RNG = np.random.default_rng(5)
OCR = "rapidocr_onnxruntime/models"
MODELS = {
    "magika": (
        lambda: packaged.member(packaged.MAGIKA, "magika/models/standard_v3_3/model.onnx"),
        {"bytes": RNG.integers(0, 256, (2, 2048)).astype(np.int32)},
    ),
    "silero": (
        lambda: packaged.member(packaged.SILERO, "silero_vad/data/silero_vad.onnx"),
        {"input": RNG.standard_normal((1, 576)).astype(np.float32), "state": np.zeros((2, 1, 128), np.float32), "sr": np.array(16000, np.int64)},
    ),
    "detector": (
        lambda: packaged.member(packaged.RAPIDOCR, f"{OCR}/ch_PP-OCRv4_det_infer.onnx"),
        {"x": RNG.standard_normal((1, 3, 64, 96)).astype(np.float32)},
    ),
    "reader": (
        lambda: packaged.member(packaged.RAPIDOCR, f"{OCR}/ch_PP-OCRv4_rec_infer.onnx"),
        {"x": RNG.standard_normal((1, 3, 48, 96)).astype(np.float32)},
    ),
}


def answers(daemon):
    """Every model's outputs, byte for byte."""
    outputs = {name: daemon.client.infer("grpc", name, inputs) for name, (_, inputs) in MODELS.items()}
    return {(name, key): (array.shape, array.tobytes()) for name, found in outputs.items() for key, array in found.items()}


def count(daemon, result):
    found = re.search(rf'^kserved_optimised_graphs_total{{result="{result}"}} (\d+)', daemon.client.get("/metrics").body.decode(), re.M)
    return int(found.group(1)) if found else 0


def test_real_models_answer_the_same_from_their_kept_graphs_even_when_some_are_damaged(daemon):
    try:
        files = {name: file() for name, (file, _) in MODELS.items()}
    except OSError as error:
        pytest.skip(f"the models cannot be fetched: {error}")
    for name, file in files.items():
        daemon.add(name, file)
    daemon.start("--set", "onnx.optimised_cache=false")
    right = answers(daemon)
    assert not (daemon.folder / "cache" / "optimised").exists()
    daemon.stop()

    daemon.start()
    assert answers(daemon) == right
    assert (count(daemon, "miss"), count(daemon, "hit")) == (len(MODELS), 0)
    optimised = daemon.folder / "cache" / "optimised"
    daemon.wait_for(lambda: len(list((optimised / "notes").glob("*.json"))) == len(MODELS), 60, "keeps the graphs")
    daemon.process.kill()
    daemon.process.wait()
    daemon.stop()

    daemon.start()
    assert (count(daemon, "miss"), count(daemon, "hit")) == (0, len(MODELS))
    assert answers(daemon) == right
    daemon.stop()

    one, other = sorted((optimised / "graphs").iterdir())[:2]
    (one / "graph").write_bytes((one / "graph").read_bytes()[:-1000])
    (other / "weights").write_bytes((other / "weights").read_bytes() + b"more")
    daemon.start()
    assert (count(daemon, "damaged"), count(daemon, "hit")) == (2, len(MODELS) - 2)
    assert answers(daemon) == right


def test_a_cache_that_cannot_be_written_is_told_once_and_serves_as_always(daemon):
    (daemon.folder / "cache").mkdir()
    (daemon.folder / "cache" / "optimised").write_text("not a folder")
    try:
        daemon.add("magika", packaged.member(packaged.MAGIKA, "magika/models/standard_v3_3/model.onnx"))
    except OSError as error:
        pytest.skip(f"the model cannot be fetched: {error}")
    daemon.add("mlp", FIXTURES / "mlp.onnx")
    daemon.start()
    daemon.wait_for(lambda: "optimised graphs cannot be kept" in daemon.log.read_text(), 30, "says why nothing is kept")
    assert daemon.client.infer("json", "mlp", {"x": np.ones((1, 4), np.float32)})["probabilities"].shape == (1, 3)
