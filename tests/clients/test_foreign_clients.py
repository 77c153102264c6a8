"""The clients people already have work as they are: tritonclient, KServe's own, grpcurl."""

import json
import pathlib
import queue
import subprocess
import sys

import numpy as np
import oip
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

FLOWERS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], np.float32)
SPECIES = [b"setosa", b"virginica"]
HERE = pathlib.Path(__file__).parent


@pytest.fixture
def http(small):
    with tritonclient.http.InferenceServerClient(small.http) as client:
        yield client


@pytest.fixture
def grpc(small):
    with tritonclient.grpc.InferenceServerClient(small.grpc) as client:
        yield client


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_tritonclient_infers_over_http(http, binary_in, binary_out):
    tensor = tritonclient.http.InferInput("measurements", list(FLOWERS.shape), "FP32")
    tensor.set_data_from_numpy(FLOWERS, binary_data=binary_in)
    wanted = [tritonclient.http.InferRequestedOutput(name, binary_data=binary_out) for name in ("probabilities", "species")]
    result = http.infer("iris", [tensor], outputs=wanted, request_id="seven")
    assert [output["name"] for output in result.get_response()["outputs"]] == ["probabilities", "species"]
    assert result.get_response()["id"] == "seven"
    assert list(map(oip.octets, result.as_numpy("species"))) == SPECIES
    assert result.as_numpy("probabilities").shape == (2, 3)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_tritonclient_compresses_both_ways(http, algorithm):
    tensor = tritonclient.http.InferInput("measurements", list(FLOWERS.shape), "FP32")
    tensor.set_data_from_numpy(FLOWERS)
    result = http.infer(
        "iris", [tensor], request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
    )
    assert list(map(oip.octets, result.as_numpy("species"))) == SPECIES


def test_tritonclient_reads_health_and_metadata_over_http(http):
    assert http.is_server_live() and http.is_server_ready() and http.is_model_ready("iris")
    assert not http.is_model_ready("tulip")
    assert http.get_server_metadata()["name"] == "kserved"
    (measurements,) = http.get_model_metadata("iris")["inputs"]
    assert measurements == {"name": "measurements", "datatype": "FP32", "shape": [-1, 4]}


def test_tritonclient_lists_the_repository(http, grpc):
    listed = {model["name"]: model["state"] for model in http.get_model_repository_index()}
    assert listed["iris"] == "READY"
    assert {model.name for model in grpc.get_model_repository_index().models} == set(listed)


def test_tritonclient_infers_over_grpc(grpc):
    tensor = tritonclient.grpc.InferInput("measurements", list(FLOWERS.shape), "FP32")
    tensor.set_data_from_numpy(FLOWERS)
    result = grpc.infer("iris", [tensor], request_id="seven")
    assert result.get_response().id == "seven"
    assert list(result.as_numpy("species")) == SPECIES


def test_tritonclient_reads_health_and_metadata_over_grpc(grpc):
    assert grpc.is_server_live() and grpc.is_server_ready() and grpc.is_model_ready("iris")
    assert grpc.get_server_metadata().name == "kserved"
    metadata = grpc.get_model_metadata("iris")
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.outputs] == [
        ("species", "BYTES", [-1]),
        ("probabilities", "FP32", [-1, 3]),
    ]


def test_tritonclient_gets_a_status_it_understands(http, grpc):
    wrong = tritonclient.http.InferInput("petals", [1], "FP32")
    wrong.set_data_from_numpy(np.zeros(1, np.float32))
    with pytest.raises(InferenceServerException) as refused:
        http.infer("iris", [wrong])
    assert refused.value.status() == "400" and "petals" in refused.value.message()
    with pytest.raises(InferenceServerException) as refused:
        grpc.get_model_metadata("tulip")
    assert refused.value.status() == "StatusCode.NOT_FOUND"


def test_many_tritonclient_requests_are_in_flight_at_once(grpc):
    tensor = tritonclient.grpc.InferInput("measurements", list(FLOWERS.shape), "FP32")
    tensor.set_data_from_numpy(FLOWERS)
    answers = queue.Queue()
    for _ in range(64):
        grpc.async_infer("iris", [tensor], lambda result, error: answers.put((result, error)))
    for result, error in (answers.get(timeout=60) for _ in range(64)):
        assert error is None
        assert list(result.as_numpy("species")) == SPECIES


def test_kserves_own_clients_work(small):
    """In a process of its own: KServe and Triton both bring a file that registers the same gRPC messages."""
    command = [sys.executable, HERE / "kserve_clients.py", small.http, small.grpc]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    probabilities = {name: found.pop(name) for name in list(found) if name.endswith("probabilities")}
    assert found == {
        "rest is_server_live": True,
        "rest is_server_ready": True,
        "rest is_model_ready": True,
        "rest v1 predictions": ["setosa", "virginica"],
        "rest json species": ["setosa", "virginica"],
        "rest binary species": ["setosa", "virginica"],
        "grpc is_server_live": True,
        "grpc is_server_ready": True,
        "grpc is_model_ready": True,
        "grpc raw species": ["setosa", "virginica"],
        "grpc typed species": ["setosa", "virginica"],
    }
    assert len(set(map(str, probabilities.values()))) == 1, "every wire gives the same numbers"


@pytest.fixture
def grpcurl(small):
    def call(*arguments, data=None):
        program = pathlib.Path(sys.executable).with_name("grpcurl")
        command = [program, "-plaintext", *(["-d", json.dumps(data)] if data is not None else []), small.grpc, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_grpcurl_finds_every_service_by_reflection(grpcurl):
    services = grpcurl("list").split()
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(services)
    methods = {line.rsplit(".", 1)[1] for line in grpcurl("list", "inference.GRPCInferenceService").split()}
    wanted = "ServerLive ServerReady ModelReady ServerMetadata ModelMetadata ModelInfer RepositoryModelLoad RepositoryModelUnload"
    assert set(wanted.split()) <= methods


def test_grpcurl_infers_without_a_proto_file(grpcurl):
    request = {
        "model_name": "iris",
        "inputs": [{"name": "measurements", "datatype": "FP32", "shape": [1, 4], "contents": {"fp32_contents": [5.1, 3.5, 1.4, 0.2]}}],
    }
    answer = json.loads(grpcurl("inference.GRPCInferenceService/ModelInfer", data=request))
    assert answer["outputs"][0]["name"] == "species"
    assert answer["outputs"][0]["contents"]["bytesContents"] == ["c2V0b3Nh"], "setosa in base 64"


def test_grpcurl_reads_health_by_name_of_model(grpcurl):
    assert json.loads(grpcurl("grpc.health.v1.Health/Check", data={}))["status"] == "SERVING"
