"""A small client of the Open Inference Protocol that says exactly what goes over the wire.

It speaks four wires: `json`, `binary` (HTTP with raw tensors), `grpc` (raw contents) and `typed` (gRPC with typed
contents). Tensors go in and come out as numpy arrays; BYTES are arrays of `bytes` objects.
"""

import http.client
import json
import struct
from dataclasses import dataclass

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

MESSAGE_BYTES_MAX = 512 << 20
WIRES = ["json", "binary", "grpc", "typed"]
DTYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
DATATYPES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
# Which field of `InferTensorContents` carries a datatype; FP16 has none.
TYPED = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


@dataclass
class Answer:
    """An HTTP answer; header names in lower case."""

    status: int
    headers: dict
    body: bytes

    def json(self):
        return json.loads(self.body)


class Refused(Exception):
    """The server answered something else than 200."""

    def __init__(self, answer):
        super().__init__(f"{answer.status}: {answer.body[:500]!r}")
        self.answer = answer


class Client:
    """One kept HTTP connection and one gRPC channel to a server."""

    def __init__(self, http_port, grpc_port=None, host="127.0.0.1", timeout_s=120):
        self.connection = http.client.HTTPConnection(host, http_port, timeout=timeout_s)
        self.timeout_s = timeout_s
        if grpc_port:
            sizes = [("grpc.max_send_message_length", MESSAGE_BYTES_MAX), ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)]
            self.channel = grpc.insecure_channel(f"{host}:{grpc_port}", options=sizes)
            self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def request(self, method, path, body=None, headers=None):
        """Sends one HTTP request as it is; raises nothing for a status."""
        try:
            return self._exchange(method, path, body, headers)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            # The server closed the kept connection between two requests, which it may.
            return self._exchange(method, path, body, headers)

    def _exchange(self, method, path, body, headers):
        try:
            self.connection.request(method, path, body, headers or {})
            response = self.connection.getresponse()
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        except (OSError, http.client.HTTPException):
            self.connection.close()
            raise

    def get(self, path):
        return self.request("GET", path)

    def infer(self, wire, model, inputs, outputs=None):
        """Runs `model` on arrays by name over one wire; gives the outputs by name."""
        return getattr(self, f"infer_{wire}")(model, inputs, outputs)

    def infer_json(self, model, inputs, outputs=None):
        body = {"inputs": [{**head(name, array), "data": listed(array)} for name, array in inputs.items()]}
        if outputs is not None:
            body["outputs"] = [{"name": name} for name in outputs]
        answer = self.ok("POST", f"/v2/models/{model}/infer", json.dumps(body).encode(), {"content-type": "application/json"})
        return {output["name"]: from_listed(output) for output in answer.json()["outputs"]}

    def infer_binary(self, model, inputs, outputs=None):
        body, headers = binary_request(inputs, outputs)
        return binary_answer(self.ok("POST", f"/v2/models/{model}/infer", body, headers))

    def infer_grpc(self, model, inputs, outputs=None):
        request = grpc_request(model, inputs, outputs)
        request.raw_input_contents.extend(raw(array) for array in inputs.values())
        response = self.stub.ModelInfer(request, timeout=self.timeout_s)
        if not inputs:
            # Nothing came in raw, so nothing goes out raw.
            return {output.name: from_typed(output) for output in response.outputs}
        assert len(response.raw_output_contents) == len(response.outputs), "raw in, raw out"
        pairs = zip(response.outputs, response.raw_output_contents)
        return {output.name: from_raw(output.datatype, list(output.shape), content) for output, content in pairs}

    def infer_typed(self, model, inputs, outputs=None):
        request = grpc_request(model, inputs, outputs)
        for tensor, array in zip(request.inputs, inputs.values()):
            getattr(tensor.contents, TYPED[tensor.datatype]).extend(typed(array))
        response = self.stub.ModelInfer(request, timeout=self.timeout_s)
        assert not response.raw_output_contents, "typed in, typed out"
        return {output.name: from_typed(output) for output in response.outputs}

    def ok(self, method, path, body=None, headers=None):
        """Like `request`, but anything except 200 raises `Refused`."""
        answer = self.request(method, path, body, headers)
        if answer.status != 200:
            raise Refused(answer)
        return answer

    def close(self):
        self.connection.close()
        if hasattr(self, "channel"):
            self.channel.close()


def datatype_of(array):
    """The protocol's name for a numpy type; text and bytes are BYTES."""
    return "BYTES" if array.dtype.kind in "USO" else DATATYPES[array.dtype]


def head(name, array):
    return {"name": name, "shape": list(array.shape), "datatype": datatype_of(array)}


def octets(element):
    return element.encode() if isinstance(element, str) else bytes(element)


def listed(array):
    """Flat row-major numbers, truth values or words."""
    if datatype_of(array) == "BYTES":
        return [octets(element).decode() for element in array.ravel()]
    return array.ravel().tolist()


def from_listed(output):
    dtype = DTYPES[output["datatype"]]
    if output["datatype"] == "BYTES":
        flat = objects([element.encode() for element in output["data"]])
    else:
        assert None not in output["data"], f"{output['name']}: a null stands for a number"
        flat = np.array(output["data"], dtype=dtype)
    return flat.reshape(output["shape"])


def objects(elements):
    array = np.empty(len(elements), dtype=np.object_)
    array[:] = elements
    return array


def raw(array):
    """Little-endian row-major bytes; BYTES elements each with a 4-byte length before them."""
    if datatype_of(array) == "BYTES":
        elements = [octets(element) for element in array.ravel()]
        return b"".join(struct.pack("<I", len(element)) + element for element in elements)
    return np.ascontiguousarray(array).tobytes()


def from_raw(datatype, shape, content):
    if datatype == "BYTES":
        return objects(list(split_lengths(content))).reshape(shape)
    return np.frombuffer(content, dtype=DTYPES[datatype]).reshape(shape)


def split_lengths(content):
    at = 0
    while at < len(content):
        (length,) = struct.unpack_from("<I", content, at)
        yield content[at + 4 : at + 4 + length]
        at += 4 + length


def typed(array):
    if datatype_of(array) == "BYTES":
        return [octets(element) for element in array.ravel()]
    return array.ravel().tolist()


def from_typed(output):
    values = list(getattr(output.contents, TYPED[output.datatype]))
    flat = objects(values) if output.datatype == "BYTES" else np.array(values, dtype=DTYPES[output.datatype])
    return flat.reshape(list(output.shape))


def binary_request(inputs, outputs=None, ask_binary=True):
    """Body and headers of a request with the binary tensor extension."""
    contents = [raw(array) for array in inputs.values()]
    tensors = [
        {**head(name, array), "parameters": {"binary_data_size": len(content)}}
        for (name, array), content in zip(inputs.items(), contents)
    ]
    message = {"inputs": tensors}
    if outputs is not None:
        message["outputs"] = [{"name": name, "parameters": {"binary_data": ask_binary}} for name in outputs]
    elif ask_binary:
        message["parameters"] = {"binary_data_output": True}
    text = json.dumps(message).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(text))}
    return b"".join([text, *contents]), headers


def binary_answer(answer):
    length = int(answer.headers["inference-header-content-length"])
    message, at, found = json.loads(answer.body[:length]), length, {}
    for output in message["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            found[output["name"]] = from_listed(output)
            continue
        assert "data" not in output
        found[output["name"]] = from_raw(output["datatype"], output["shape"], answer.body[at : at + size])
        at += size
    assert at == len(answer.body), "bytes are left after the last tensor"
    return found


def grpc_request(model, inputs, outputs=None):
    request = pb.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
    for name in outputs or []:
        request.outputs.add(name=name)
    return request


def as_protocol(array):
    """An array as ONNX Runtime gives it, in the form this client gives it: words become bytes."""
    array = np.asarray(array)
    if array.dtype.kind in "USO":
        return objects([octets(element) for element in array.ravel()]).reshape(array.shape)
    return array


def same(expected, found):
    """Whether two arrays agree in type, shape and every bit; all NaN count as one."""
    expected, found = as_protocol(expected), as_protocol(found)
    if expected.dtype != found.dtype or expected.shape != found.shape:
        return False
    if expected.dtype.kind == "f":
        unsigned = {2: np.uint16, 4: np.uint32, 8: np.uint64}[expected.dtype.itemsize]
        both_nan = np.isnan(expected) & np.isnan(found)
        bits = np.ascontiguousarray(expected).view(unsigned) == np.ascontiguousarray(found).view(unsigned)
        return bool(np.all(bits | both_nan)) if expected.shape else bool(bits.item() or both_nan)
    return bool(np.all(expected == found))


def difference(expected, found):
    """A sentence on how two sets of outputs differ; empty when they do not."""
    if list(expected) != list(found):
        return f"outputs are {list(found)}, expected {list(expected)}"
    for name, array in expected.items():
        if not same(array, found[name]):
            wanted, got = as_protocol(array), as_protocol(found[name])
            return f"output {name}: {got.dtype}{list(got.shape)} {got.ravel()[:5]}, expected {wanted.dtype}{list(wanted.shape)} {wanted.ravel()[:5]}"
    return ""
