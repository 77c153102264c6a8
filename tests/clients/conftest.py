"""Fixtures: a daemon of one's own, one over the small models for everyone who only asks, and one over a language model."""

import packaged
import pytest
from daemon import BINARY, FIXTURES, ROOT, Daemon, of_format


def pytest_configure(config):
    if not BINARY.is_file():
        raise pytest.UsageError(f"no kserved at {BINARY}\n\nhint: run `make test-clients`, or set `KSERVED_BIN`")


@pytest.fixture
def daemon(tmp_path):
    """A daemon that the test fills and starts; ended with the test."""
    started = Daemon(tmp_path)
    yield started
    started.stop()


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A daemon over iris and the tiny models, shared by tests that change nothing."""
    started = Daemon(tmp_path_factory.mktemp("small"))
    started.add("iris", ROOT / "models" / "iris" / "model.onnx")
    for name in ["mlp", "add_sub", "scalar", "slow", "no_inputs", "concat"]:
        started.add(name.replace("_", "-"), FIXTURES / f"{name}.onnx")
    for path in sorted(FIXTURES.glob("identity_*.onnx")):
        started.add(path.stem.replace("_", "-"), path)
    started.start()
    yield started
    assert started.stop() == 0


@pytest.fixture(scope="module")
def smol(tmp_path_factory):
    """A daemon over SmolLM2, a real language model, ready to be asked; `file` is the model's, with its makers' template."""
    started = Daemon(tmp_path_factory.mktemp("smol"))
    started.file = packaged.smollm2()
    started.write("smol.yaml", of_format("smol", "gguf", f"file://{started.file}"))
    started.start()
    started.wait_ready("smol", within_s=120)
    yield started
    assert started.stop() == 0
