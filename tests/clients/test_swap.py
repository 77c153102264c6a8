"""A model that changes under full load: no request fails, and each answer is of exactly one version, the one it names."""

import collections
import itertools
import threading

import numpy as np
import oip
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

SWAPS = 50
X = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)
REVISION = "x-kserved-revision"


def write_model(path, version):
    """`y` = `x` + version, written beside and renamed into place."""
    add = helper.make_node("Add", ["x", "version"], ["y"])
    value = numpy_helper.from_array(np.float32([version]), "version")
    shape = ["batch", 4]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in ("x", "y")]
    graph = helper.make_graph([add], "versioned", *ends, [value])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    partial = path.with_name(".model.partial")
    partial.write_bytes(model.SerializeToString())
    partial.replace(path)


class Callers:
    """Callers that never pause, each over one wire; they count every answer by its revision, and note every failure."""

    def __init__(self, daemon, wires):
        self.daemon, self.end = daemon, threading.Event()
        self.seen, self.failures = collections.Counter(), []
        self.threads = [threading.Thread(target=self.call, args=(wire,)) for wire in wires]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.end.set()
        for thread in self.threads:
            thread.join()

    def call(self, wire):
        client, seen = self.daemon.new_client(), collections.Counter()
        body = oip.json.dumps({"inputs": [{**oip.head("x", X), "data": oip.listed(X)}]}).encode()
        message = oip.grpc_request("adder", {"x": X})
        message.raw_input_contents.append(oip.raw(X))
        while not self.end.is_set():
            try:
                seen[over_grpc(client, message) if wire == "grpc" else over_http(client, body)] += 1
            except Exception as error:  # every failure counts, whatever it is
                self.failures.append(f"{wire}: {error!r}"[:300])
                if len(self.failures) > 20:
                    break
        self.seen.update(seen)
        client.close()


def over_http(client, body):
    answer = client.ok("POST", "/v2/models/adder/infer", body, {"content-type": "application/json"})
    return answer.headers[REVISION], tuple(answer.json()["outputs"][0]["data"])


def over_grpc(client, message):
    response, call = client.stub.ModelInfer.with_call(message, timeout=60)
    told = dict(itertools.chain(call.initial_metadata(), call.trailing_metadata()))
    return told[REVISION], tuple(np.frombuffer(response.raw_output_contents[0], np.float32).tolist())


def revision(daemon):
    components = (daemon.resource("adder") or {}).get("status", {}).get("components", {})
    return components.get("predictor", {}).get("latestReadyRevision")


def mixed_up(seen, version_of):
    """The answers that are not those of the version they name."""
    return [(name, answer) for name, answer in seen if answer != tuple((X[0] + version_of[name]).tolist())]


@pytest.mark.parametrize("change", ["file", "manifest"])
def test_swaps_under_load_fail_no_request_and_mix_no_versions(daemon, change):
    folder = daemon.models / "adder"
    folder.mkdir()
    write_model(folder / "0.onnx", 0)

    def manifest(version):
        file = "0.onnx" if change == "file" else f"{version}.onnx"
        return MANIFEST.format(file=file)

    daemon.write("adder.yaml", manifest(0))
    daemon.start(config="control:\n  debounce_ms: 5\n")
    daemon.wait_ready("adder")
    version_of = {revision(daemon): 0}
    with Callers(daemon, ["http", "grpc", "http", "grpc"]) as callers:
        for version in range(1, SWAPS + 1):
            before = revision(daemon)
            write_model(folder / ("0.onnx" if change == "file" else f"{version}.onnx"), version)
            if change == "manifest":
                daemon.write("adder.yaml", manifest(version))
            daemon.wait_for(lambda: revision(daemon) not in (None, before), 30, f"serves version {version}")
            version_of[revision(daemon)] = version
    assert not callers.failures, callers.failures[:3]
    assert len(version_of) == SWAPS + 1
    assert not (mixed := mixed_up(callers.seen, version_of)), mixed[:3]
    assert len({name for name, _ in callers.seen}) > SWAPS // 2, "callers saw the versions come and go"


MANIFEST = """apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: adder
spec:
  predictor:
    model:
      modelFormat: {{name: onnx}}
      protocolVersion: v2
      storageUri: adder/{file}
"""
