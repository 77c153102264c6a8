"""The same bytes to kserved and to KServe's own model server: alike, or listed here with the reason.

`DIFFERENCES` is the whole list. A case that is not in it must agree in status and body; a case that is in it must differ
exactly as it says, so that the list cannot grow old.
"""

import json
import pathlib
import subprocess
import sys
import time
from dataclasses import dataclass, field

import grpc
import numpy as np
import oip
import pytest
from daemon import FIXTURES, ROOT, free_port
from tritonclient.grpc import service_pb2 as pb

JSON = {"content-type": "application/json"}
BINARY = {"content-type": "application/octet-stream"}
MODELS = {
    "iris": ROOT / "models" / "iris" / "model.onnx",
    "mlp": FIXTURES / "mlp.onnx",
    "add-sub": FIXTURES / "add_sub.onnx",
    "identity-bytes": FIXTURES / "identity_bytes.onnx",
    "identity-fp16": FIXTURES / "identity_fp16.onnx",
    "identity-int8": FIXTURES / "identity_int8.onnx",
    "identity-fp64": FIXTURES / "identity_fp64.onnx",
    "scalar": FIXTURES / "scalar.onnx",
}
ROW = [5.1, 3.5, 1.4, 0.2]


@dataclass
class Case:
    method: str
    path: str
    body: bytes | None = None
    headers: dict = field(default_factory=lambda: JSON)


def v1(body, model="iris", headers=JSON):
    return Case("POST", f"/v1/models/{model}:predict", content(body), headers)


def v2(body, model="iris", headers=JSON):
    return Case("POST", f"/v2/models/{model}/infer", content(body), headers)


def content(body):
    return body if isinstance(body, bytes | None) else json.dumps(body).encode()


def tensor(name="measurements", datatype="FP32", shape=(1, 4), data=ROW, **more):
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": data, **more}


def binary(inputs, model="iris", ask_binary=True, outputs=None, head_change=None):
    body, headers = oip.binary_request(inputs, outputs, ask_binary)
    return v2(body, model, {**headers, **(head_change or {})})


FLOWER = {"measurements": np.array([ROW], np.float32)}
WORDS = {"x": np.array([["a", "é", ""]], dtype=object)}

CASES = {
    "root": Case("GET", "/"),
    "v1 models": Case("GET", "/v1/models"),
    "v1 model": Case("GET", "/v1/models/iris"),
    "v1 unknown model": Case("GET", "/v1/models/tulip"),
    "v1 instances": v1({"instances": [ROW, ROW]}),
    "v1 inputs": v1({"inputs": [ROW]}),
    "v1 both keys": v1({"inputs": [ROW], "instances": [[1, 2, 3, 4]]}),
    "v1 one output": v1({"instances": [ROW]}, "mlp"),
    "v1 other keys": v1({"instances": [ROW], "signature_name": "x"}),
    "v1 without a content type": v1({"instances": [ROW]}, headers={}),
    "v1 with a charset": v1({"instances": [ROW]}, headers={"content-type": "application/json; charset=utf-8"}),
    "v1 to an unknown model": v1({"instances": [ROW]}, "tulip"),
    "v1 broken JSON to an unknown model": v1(b"{", "tulip"),
    "v1 broken JSON": v1(b'{"instances": [[1,'),
    "v1 instances is no list": v1({"instances": 5}),
    "v1 instances is empty": v1({"instances": []}),
    "v1 neither key": v1({"rows": [ROW]}),
    "v1 ragged rows": v1({"instances": [[1, 2], [3]]}),
    "v1 wrong width": v1({"instances": [[1, 2]]}),
    "v1 bare list": v1([[1, 2]]),
    "v1 words for numbers": v1({"instances": [["a", "b", "c", "d"]]}),
    "v1 explain": Case("POST", "/v1/models/iris:explain", content({"instances": [ROW]})),
    "v2 server": Case("GET", "/v2"),
    "v2 live": Case("GET", "/v2/health/live"),
    "v2 ready": Case("GET", "/v2/health/ready"),
    "v2 models": Case("GET", "/v2/models"),
    "v2 model": Case("GET", "/v2/models/iris"),
    "v2 scalar model": Case("GET", "/v2/models/scalar"),
    "v2 unknown model": Case("GET", "/v2/models/tulip"),
    "v2 model ready": Case("GET", "/v2/models/iris/ready"),
    "v2 unknown model ready": Case("GET", "/v2/models/tulip/ready"),
    "v2 model version": Case("GET", "/v2/models/iris/versions/1"),
    "v2 model version ready": Case("GET", "/v2/models/iris/versions/1/ready"),
    "v2 infer a version": Case("POST", "/v2/models/iris/versions/1/infer", content({"inputs": [tensor()]})),
    "v2 infer": v2({"inputs": [tensor()]}),
    "v2 infer with an id": v2({"id": "seven", "inputs": [tensor()]}),
    "v2 nested data": v2({"inputs": [tensor(data=[ROW])]}),
    "v2 data before datatype": v2(b'{"inputs":[{"data":[1,2,3,4],"shape":[1,4],"datatype":"FP32","name":"measurements"}]}'),
    "v2 unknown members": v2({"inputs": [tensor(colour="blue")], "priority": 1}),
    "v2 one output asked for": v2({"inputs": [tensor()], "outputs": [{"name": "probabilities"}]}),
    "v2 outputs in another order": v2({"inputs": [tensor()], "outputs": [{"name": "probabilities"}, {"name": "species"}]}),
    "v2 unknown output": v2({"inputs": [tensor()], "outputs": [{"name": "colour"}]}),
    "v2 words": v2({"inputs": [tensor("x", "BYTES", (1, 2), ["a", "é"])]}, "identity-bytes"),
    "v2 scalar": v2({"inputs": [tensor("x", shape=(), data=[2]), tensor("sr", "INT64", (), [3])]}, "scalar"),
    "v2 two outputs": v2({"inputs": [tensor("a"), tensor("b")]}, "add-sub"),
    "v2 whole numbers for floats": v2({"inputs": [tensor(data=[5, 3, 1, 0])]}),
    "v2 doubles": v2({"inputs": [tensor("x", "FP64", (1, 2), [0.1, 1e300])]}, "identity-fp64"),
    "v2 lower case datatype": v2({"inputs": [tensor(datatype="fp32")]}),
    "v2 FP16 in JSON": v2({"inputs": [tensor("x", "FP16", (1, 2), [1, 2])]}, "identity-fp16"),
    "v2 BF16": v2({"inputs": [tensor("x", "BF16", (1, 2), [1, 2])]}, "identity-fp16"),
    "v2 unknown datatype": v2({"inputs": [tensor(datatype="FLOAT")]}),
    "v2 number too large": v2({"inputs": [tensor("x", "INT8", (1, 1), [300])]}, "identity-int8"),
    "v2 wrong count": v2({"inputs": [tensor(shape=(2, 4))]}),
    "v2 wrong width": v2({"inputs": [tensor(shape=(1, 2), data=[1, 2])]}),
    "v2 no inputs": v2({"inputs": []}),
    "v2 unknown input": v2({"inputs": [tensor("petals")]}),
    "v2 without data": v2({"inputs": [{"name": "measurements", "datatype": "FP32", "shape": [1, 4]}]}),
    "v2 without shape": v2({"inputs": [{"name": "measurements", "datatype": "FP32", "data": ROW}]}),
    "v2 broken JSON": v2(b'{"inputs": ['),
    "v2 no body": v2(b""),
    "v2 without a content type": v2({"inputs": [tensor()]}, headers={}),
    "v2 with a charset": v2({"inputs": [tensor()]}, headers={"content-type": "application/json; charset=utf-8"}),
    "v2 to an unknown model": v2({"inputs": [tensor()]}, "tulip"),
    "v2 binary in and out": binary(FLOWER),
    "v2 binary in, JSON out": binary(FLOWER, ask_binary=False),
    "v2 binary, outputs asked for": binary(FLOWER, outputs=["probabilities"]),
    "v2 JSON in, binary out": v2({"inputs": [tensor()], "parameters": {"binary_data_output": True}}),
    "v2 an output's own word wins": v2(
        {
            "inputs": [tensor()],
            "parameters": {"binary_data_output": True},
            "outputs": [{"name": "species"}, {"name": "probabilities", "parameters": {"binary_data": True}}],
        }
    ),
    "v2 binary words": binary(WORDS, "identity-bytes"),
    "v2 binary FP16": binary({"x": np.array([[1.5, -2]], np.float16)}, "identity-fp16"),
    "v2 binary without the header": v2(b'{"inputs":[]}', headers=BINARY),
    "v2 binary with a wrong length": binary(FLOWER, head_change={"inference-header-content-length": "9999"}),
    "v2 binary cut short": v2(oip.binary_request(FLOWER)[0][:-1], headers=oip.binary_request(FLOWER)[1]),
    "v2 load": Case("POST", "/v2/repository/models/mlp/load"),
    "v2 load an unknown model": Case("POST", "/v2/repository/models/tulip/load"),
    "v2 unload an unknown model": Case("POST", "/v2/repository/models/tulip/unload"),
    "unknown route": Case("GET", "/v3"),
    "wrong verb": Case("GET", "/v2/models/iris/infer"),
}

WORDS_ONLY = "both refuse alike; kserved's sentence names the field and what is expected"
CALLERS_MISTAKE = "the caller's mistake is 400, as the protocol says, not 500 with a Python message"
ONE_ERROR_SHAPE = "the protocol has one shape of error, `{\"error\": ...}`; FastAPI's own `detail` is not it"

# Name of the case: status of KServe's server, status of kserved, and why kserved answers otherwise.
DIFFERENCES = {
    "v1 with a charset": (500, 200, "`application/json; charset=utf-8` is JSON"),
    "v1 broken JSON": (400, 400, WORDS_ONLY),
    "v1 instances is empty": (500, 200, "no rows in, no rows out: KServe leaves this to each model"),
    "v1 neither key": (500, 400, CALLERS_MISTAKE),
    "v1 ragged rows": (500, 400, CALLERS_MISTAKE),
    "v1 wrong width": (500, 400, CALLERS_MISTAKE),
    "v1 bare list": (500, 400, CALLERS_MISTAKE),
    "v1 words for numbers": (500, 400, CALLERS_MISTAKE),
    "v1 explain": (501, 501, "kserved names the model; there is no explainer host to set"),
    "v2 server": (200, 200, "its own name and version, and the extensions it has, under the protocol's names"),
    "v2 model": (200, 200, "the platform is told instead of left empty"),
    "v2 scalar model": (200, 200, "the platform is told instead of left empty"),
    "v2 BF16": (400, 400, "kserved carries BF16, as the protocol does, but not in JSON; KServe does not know it"),
    "v2 unknown datatype": (400, 400, WORDS_ONLY),
    "v2 number too large": (500, 400, CALLERS_MISTAKE),
    "v2 wrong count": (500, 400, CALLERS_MISTAKE),
    "v2 wrong width": (400, 400, WORDS_ONLY),
    "v2 no inputs": (500, 400, CALLERS_MISTAKE),
    "v2 unknown input": (500, 400, CALLERS_MISTAKE),
    "v2 without data": (422, 400, ONE_ERROR_SHAPE),
    "v2 without shape": (422, 400, ONE_ERROR_SHAPE),
    "v2 broken JSON": (422, 400, ONE_ERROR_SHAPE),
    "v2 no body": (422, 400, ONE_ERROR_SHAPE),
    "v2 without a content type": (400, 200, "a body without a type is JSON, as in v1; tritonclient sends it so"),
    "v2 binary without the header": (400, 400, WORDS_ONLY),
    "v2 binary with a wrong length": (400, 400, WORDS_ONLY),
    "v2 binary cut short": (500, 400, CALLERS_MISTAKE),
    "v2 load an unknown model": (503, 404, "an unknown model is 404 wherever it is asked for"),
    "unknown route": (404, 404, ONE_ERROR_SHAPE),
    "wrong verb": (405, 405, ONE_ERROR_SHAPE),
}


@pytest.fixture(scope="module")
def kserve(tmp_path_factory):
    """KServe's own server over the same models."""
    http_port, grpc_port = free_port(), free_port()
    command = [sys.executable, pathlib.Path(__file__).parent / "kserve_server.py"]
    command += ["--http_port", str(http_port), "--grpc_port", str(grpc_port)]
    command += [f"{name}={path}" for name, path in MODELS.items()]
    log = tmp_path_factory.mktemp("kserve") / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    client = oip.Client(http_port, grpc_port)
    deadline = time.monotonic() + 60
    while not is_up(client):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    yield client
    client.close()
    process.terminate()
    process.wait(20)


def is_up(client):
    try:
        return client.get("/v2/health/ready").status == 200
    except OSError:
        return False


def understood(answer):
    """What an answer says, without what may differ between any two servers of the protocol.

    Left out are members that are null, an id the server made up, and models the other server does not have. A number of
    FP32 is read as such: KServe writes 0.980657160282135 and kserved 0.98065716 for the same four bytes.
    """
    length = int(answer.headers.get("inference-header-content-length", len(answer.body)))
    try:
        said = plain(json.loads(answer.body[:length] or b"null"))
    except ValueError:
        return answer.body
    if isinstance(said, dict):
        if said.get("id") != "seven":
            said.pop("id", None)
        if "models" in said:
            said["models"] = sorted(set(said["models"]) & set(MODELS))
    return said, answer.body[length:]


def plain(value, single=True):
    if isinstance(value, dict):
        single = value.get("datatype", "FP32") == "FP32"
        return {name: plain(member, single) for name, member in value.items() if member is not None}
    if isinstance(value, list):
        return [plain(member, single) for member in value]
    return float(np.float32(value)) if single and isinstance(value, float) else value


@pytest.mark.parametrize("name", CASES)
def test_an_answer_is_kserves_or_the_difference_has_a_reason(small, kserve, name):
    case = CASES[name]
    theirs = kserve.request(case.method, case.path, case.body, case.headers)
    ours = small.client.request(case.method, case.path, case.body, case.headers)
    seen = f"KServe: {theirs.status} {theirs.body[:300]}\nkserved: {ours.status} {ours.body[:300]}"
    if name not in DIFFERENCES:
        assert (theirs.status, understood(theirs)) == (ours.status, understood(ours)), seen
        return
    assert DIFFERENCES[name][:2] == (theirs.status, ours.status), seen
    assert understood(theirs) != understood(ours) or theirs.status != ours.status, "no difference is left: take it off the list"


def grpc_infer(inputs=FLOWER, model="iris", raw=True, change=None, outputs=()):
    request = oip.grpc_request(model, inputs, outputs)
    if raw:
        request.raw_input_contents.extend(map(oip.raw, inputs.values()))
    else:
        for described, array in zip(request.inputs, inputs.values()):
            getattr(described.contents, oip.TYPED[described.datatype]).extend(oip.typed(array))
    if change:
        change(request)
    return "ModelInfer", request


GRPC_CASES = {
    "live": ("ServerLive", pb.ServerLiveRequest()),
    "ready": ("ServerReady", pb.ServerReadyRequest()),
    "server": ("ServerMetadata", pb.ServerMetadataRequest()),
    "model ready": ("ModelReady", pb.ModelReadyRequest(name="iris")),
    "unknown model ready": ("ModelReady", pb.ModelReadyRequest(name="tulip")),
    "model": ("ModelMetadata", pb.ModelMetadataRequest(name="iris")),
    "unknown model": ("ModelMetadata", pb.ModelMetadataRequest(name="tulip")),
    "raw": grpc_infer(),
    "typed": grpc_infer(raw=False),
    "raw words": grpc_infer(WORDS, "identity-bytes"),
    "typed words": grpc_infer(WORDS, "identity-bytes", raw=False),
    "raw FP16": grpc_infer({"x": np.array([[1.5, -2]], np.float16)}, "identity-fp16"),
    "with an id": grpc_infer(change=lambda request: setattr(request, "id", "seven")),
    "a version": grpc_infer(change=lambda request: setattr(request, "model_version", "1")),
    "one output asked for": grpc_infer(outputs=["probabilities"]),
    "unknown output": grpc_infer(outputs=["colour"]),
    "to an unknown model": grpc_infer(model="tulip"),
    "too few contents": grpc_infer(change=lambda request: request.raw_input_contents.append(b"")),
    "raw and typed": grpc_infer(change=lambda request: request.inputs[0].contents.fp32_contents.extend(ROW)),
    "wrong width": grpc_infer({"measurements": np.zeros((1, 2), np.float32)}),
    "cut short": grpc_infer(change=lambda request: request.raw_input_contents.__setitem__(0, b"123")),
    "unknown input": grpc_infer({"petals": np.array([ROW], np.float32)}),
    "unknown datatype": grpc_infer(change=lambda request: setattr(request.inputs[0], "datatype", "FLOAT")),
    "no inputs": grpc_infer({}),
}

# Name of the case: KServe's code, kserved's code, and why.
GRPC_DIFFERENCES = {
    "server": ("OK", "OK", "its own name and version, and the extensions it has, under the protocol's names"),
    "model": ("OK", "OK", "the platform is told instead of left empty"),
    "one output asked for": ("OK", "OK", "KServe ignores the list of outputs on gRPC, against the protocol and its own REST"),
    "unknown output": ("OK", "INVALID_ARGUMENT", "KServe ignores the list of outputs on gRPC"),
    "wrong width": ("INVALID_ARGUMENT", "INVALID_ARGUMENT", WORDS_ONLY),
    "cut short": ("INTERNAL", "INVALID_ARGUMENT", "the caller's mistake, not the server's"),
    "unknown input": ("INTERNAL", "INVALID_ARGUMENT", "the caller's mistake, not the server's"),
    "unknown datatype": ("INVALID_ARGUMENT", "INVALID_ARGUMENT", WORDS_ONLY),
    "no inputs": ("INTERNAL", "INVALID_ARGUMENT", "the caller's mistake, not the server's"),
}


def over_grpc(client, method, request):
    """The code, and what the answer says without an id the server made up."""
    try:
        response = getattr(client.stub, method)(request, timeout=30)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    if hasattr(response, "id") and response.id != "seven":
        response.id = ""
    return "OK", response


@pytest.mark.parametrize("name", GRPC_CASES)
def test_a_grpc_answer_is_kserves_or_the_difference_has_a_reason(small, kserve, name):
    method, request = GRPC_CASES[name]
    theirs, ours = over_grpc(kserve, method, request), over_grpc(small.client, method, request)
    seen = f"KServe: {theirs}\nkserved: {ours}"
    if name not in GRPC_DIFFERENCES:
        assert theirs == ours, seen
        return
    assert GRPC_DIFFERENCES[name][:2] == (theirs[0], ours[0]), seen
    assert theirs != ours, "no difference is left: take it off the list"


def test_every_listed_difference_is_a_case():
    assert set(DIFFERENCES) <= set(CASES) and set(GRPC_DIFFERENCES) <= set(GRPC_CASES)
