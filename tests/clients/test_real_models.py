"""Real models answer on every wire exactly what ONNX Runtime answers in process."""

import functools
import json

import numpy as np
import oip
import onnxruntime
import packaged
import pytest
from daemon import ROOT, Daemon
from PIL import Image, ImageDraw, ImageFont

FILES = {
    "magika": (packaged.MAGIKA, "magika/models/standard_v3_3/model.onnx"),
    "silero": (packaged.SILERO, "silero_vad/data/silero_vad.onnx"),
    "ocr-det": (packaged.RAPIDOCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"),
    "ocr-cls": (packaged.RAPIDOCR, "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    "ocr-rec": (packaged.RAPIDOCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"),
    "iris": (None, ROOT / "models" / "iris" / "model.onnx"),
}
TEXT = "Hello KServe 2024"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """One daemon with all the real models."""
    daemon = Daemon(tmp_path_factory.mktemp("real"))
    for name in FILES:
        daemon.add(name, path_of(name))
    daemon.start()
    for name in FILES:
        daemon.wait_ready(name, within_s=60)
    yield daemon
    assert daemon.stop() == 0


def path_of(name):
    package, path = FILES[name]
    return path if package is None else packaged.member(package, path)


@functools.cache
def session(name):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path_of(name), options, providers=["CPUExecutionProvider"])


def in_process(name, inputs):
    outputs = [output.name for output in session(name).get_outputs()]
    return dict(zip(outputs, session(name).run(outputs, inputs)))


def check(served, wire, name, inputs):
    """Runs the model over one wire, demands the answer of ONNX Runtime bit for bit, and returns it."""
    found = served.client.infer(wire, name, inputs)
    assert not (wrong := oip.difference(in_process(name, inputs), found)), f"{name} on {wire}: {wrong}"
    return found


def file_features(content):
    """What magika looks at: 1,024 bytes of the start and of the end without white space, padded with 256."""
    first, last = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
    start = [*first, *[256] * (1024 - len(first))]
    return [*start, *[256] * (1024 - len(last)), *last]


@pytest.mark.parametrize("wire", oip.WIRES)
def test_file_types_are_told_from_a_batch_of_files(served, wire):
    kinds = {"python": "tests/clients/oip.py", "rust": "src/lib.rs", "markdown": "ARCHITECTURE.md", "shell": ".ci/run"}
    features = [file_features((ROOT / path).read_bytes()) for path in kinds.values()]
    found = check(served, wire, "magika", {"bytes": np.array(features, np.int32)})
    config = json.loads(packaged.member(packaged.MAGIKA, "magika/models/standard_v3_3/config.min.json").read_text())
    labels = [config["target_labels_space"][best] for best in found["target_label"].argmax(axis=1)]
    assert labels == list(kinds)


@pytest.mark.parametrize("wire", oip.WIRES)
def test_a_stream_of_sound_carries_its_state_through_the_client(served, wire):
    sound = voice_like()
    state, context, speech = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32), []
    for frame in sound.reshape(-1, 512):
        window = np.concatenate([context, frame])[None]
        found = check(served, wire, "silero", {"input": window, "state": state, "sr": np.array(16000, np.int64)})
        state, context = found["stateN"], frame[-64:]
        speech.append(float(found["output"].item()))
    assert max(speech[:5]) < 0.2, "silence is no speech"
    assert len(set(speech)) == len(speech), "the state changes every answer"


def voice_like():
    """32 frames at 16 kHz: silence, then a buzz through two resonances that swells like syllables."""
    at = np.arange(32 * 512) / 16000
    buzz = sum(np.sin(2 * np.pi * 120 * k * at) / k for k in range(1, 25))
    swell = np.clip(np.sin(2 * np.pi * 4 * at), 0, None) * (at > 0.25)
    noise = np.random.default_rng(3).normal(0, 1e-4, at.size)
    return (0.1 * buzz * swell + noise).astype(np.float32)


def drawn(text, width, height, size):
    """Black words on white, as the text models want them: [1, 3, height, width] from -1 to 1."""
    image = Image.new("L", (width, height), 255)
    ImageDraw.Draw(image).text((8, height // 2), text, fill=0, font=ImageFont.load_default(size), anchor="lm")
    grey = np.asarray(image, np.float32) / 127.5 - 1
    return np.ascontiguousarray(np.broadcast_to(grey, (1, 3, height, width)))


@pytest.mark.parametrize("wire", oip.WIRES)
def test_drawn_words_are_read(served, wire):
    found = check(served, wire, "ocr-rec", {"x": drawn(TEXT, 320, 48, 34)})
    (scores,) = found.values()
    characters = session("ocr-rec").get_modelmeta().custom_metadata_map["character"].splitlines()
    alphabet = ["", *characters, " "]
    best = scores[0].argmax(axis=1)
    letters = [alphabet[index] for index, before in zip(best, [0, *best]) if index != before]
    assert "".join(letters).strip() == TEXT


@pytest.mark.parametrize("wire", oip.WIRES)
def test_upside_down_words_are_noticed(served, wire):
    upright = drawn(TEXT, 192, 48, 20)
    both = np.concatenate([upright, upright[:, :, ::-1, ::-1]])
    (scores,) = check(served, wire, "ocr-cls", {"x": both}).values()
    assert list(scores.argmax(axis=1)) == [0, 1]


@pytest.mark.parametrize("wire", oip.WIRES)
def test_a_request_of_13_megabytes_is_answered(served, wire):
    page = drawn(TEXT, 1056, 1056, 60)
    assert page.nbytes > 13_000_000
    (heat,) = check(served, wire, "ocr-det", {"x": page}).values()
    assert heat.shape == (1, 1, 1056, 1056)
    rows = np.flatnonzero(heat[0, 0].max(axis=1) > 0.3)
    assert 480 < rows.min() < rows.max() < 580, "the words stand in the middle of the page"


@pytest.mark.parametrize("wire", oip.WIRES)
def test_flowers_are_named(served, wire):
    flowers = np.array([[5.1, 3.5, 1.4, 0.2], [6.0, 2.9, 4.5, 1.5], [6.7, 3.0, 5.2, 2.3]], np.float32)
    found = check(served, wire, "iris", {"measurements": flowers})
    assert list(found["species"]) == [b"setosa", b"versicolor", b"virginica"]
