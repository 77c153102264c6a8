"""The check for machines with a GPU runs here as a rehearsal, and says what is off."""

import os
import subprocess
import sys

import pytest
from daemon import BINARY, ROOT

CHECK = ROOT / "scripts" / "gpu_check.py"


def run(*arguments):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KSERVED_")} | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, CHECK, "--kserved", BINARY, "--no-large", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=clean)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    assert run("--prepare", folder).returncode == 0
    return folder


def test_on_the_cpu_all_checks_hold(prepared):
    done = run("--device", "cpu", "--models", prepared)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "OFF" not in done.stdout and "llama-bfloat16: answer" in done.stdout and "tokens per second of llama-float32" in done.stdout


def test_a_machine_without_a_gpu_is_told_for_each_model(prepared):
    done = run("--models", prepared)
    assert done.returncode == 1, done.stdout + done.stderr
    off = [line for line in done.stdout.splitlines() if line.startswith("OFF")]
    assert off and all("device" in line and "the model computes on the CPU: " in line for line in off), done.stdout
    assert "iris-onnx: device" in done.stdout and "not checked: `--onnx-library`" in done.stdout


def test_a_program_that_is_not_there_is_told_with_how_to_build_it():
    done = subprocess.run([sys.executable, CHECK, "--kserved", "/nowhere/kserved"], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (1, "error: no program at /nowhere/kserved\n\nhint: `make cuda` builds it\n")


def test_answers_beyond_the_bounds_are_off(monkeypatch):
    monkeypatch.syspath_prepend(str(CHECK.parent))
    import gpu_check  # noqa: PLC0415 - found through the path above

    def text(tokens, numbers, second=-9.0):
        top = [{token: number, "other": second} for token, number in zip(tokens, numbers, strict=True)]
        return {"tokens": list(tokens), "token_logprobs": numbers, "top_logprobs": top}

    sixteen = "abcdefghijklmnop"
    ours = [text(sixteen, [-0.1] * 16)]
    assert gpu_check.compare_texts(ours, ours, "float32")[0]
    assert not gpu_check.compare_texts(ours, [text(sixteen, [-0.1] * 15 + [-0.2])], "float32")[0], "a number is too far away"
    assert not gpu_check.compare_texts(ours, [text(sixteen[:8] + "x" * 8, [-0.1] * 16)], "float32")[0], "another token"
    undecided = [text(sixteen, [-0.1] * 16), text("y" + sixteen[1:], [-0.7] * 16, second=-0.705)]
    assert gpu_check.compare_texts(undecided, [undecided[0], text("z" + sixteen[1:], [-0.7] * 16)], "float32")[0], "two are as likely"
    assert not gpu_check.compare_texts(undecided[1:], [text("z" + sixteen[1:], [-0.7] * 16)], "float32")[0], "nothing was compared"
    assert gpu_check.compare_embeddings([[1.0, 0.0]], [[1.0, 1e-4]], "float32")[0]
    assert not gpu_check.compare_embeddings([[1.0, 0.0]], [[1.0, 1e-2]], "float32")[0]
    assert not gpu_check.compare_embeddings([[1.0, 0.0]], [[2.0, 0.0]], "float32")[0], "a length is a difference"
    assert not gpu_check.compare_embeddings([[1.0, 0.0]], [[float("nan"), 0.0]], "float32")[0], "no number at all"
    assert not gpu_check.compare_numbers([0.5, 0.5], [0.5, 0.6], "onnx")[0]
