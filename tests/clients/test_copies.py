"""How often the bytes of a tensor are moved between socket and engine, read from the daemon's own counter."""

import numpy as np
import oip
import pytest
from daemon import FIXTURES, Daemon

# 13 MB, as the largest real model's input.
IMAGE = np.arange(13_000_000 // 4, dtype=np.float32).reshape(1, -1)
GRAPH = """apiVersion: serving.kserve.io/v1alpha1
kind: InferenceGraph
metadata: {name: once}
spec:
  nodes:
    root:
      routerType: Sequence
      steps:
      - {serviceName: identity}
"""
# What may lie around the tensor in a body or a message.
AROUND = 1024


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    daemon = Daemon(tmp_path_factory.mktemp("copies"))
    daemon.add("identity", FIXTURES / "identity_fp32.onnx")
    daemon.write("once.yaml", GRAPH)
    daemon.start()
    yield daemon
    assert daemon.stop() == 0, daemon.tail()


def copied(daemon):
    """Bytes copied so far, by reason."""
    lines = [line for line in daemon.client.get("/metrics").body.decode().splitlines() if line.startswith("kserved_copied_bytes_total{")]
    return {line.split('"')[1]: int(float(line.split()[-1])) for line in lines}


def copied_by(daemon, wire, tensor):
    before = copied(daemon)
    name = daemon.client.get("/v2/models/identity").json()["inputs"][0]["name"]
    answer = daemon.client.infer(wire, "identity", {name: tensor})
    assert np.array_equal(next(iter(answer.values())), tensor)
    return {why: count - before.get(why, 0) for why, count in copied(daemon).items() if count > before.get(why, 0)}


def test_a_large_binary_body_is_moved_once_from_the_sockets_pieces_into_one(daemon):
    found = copied_by(daemon, "binary", IMAGE)
    assert set(found) == {"gathered"} and IMAGE.nbytes <= found["gathered"] <= IMAGE.nbytes + AROUND, found


def test_a_graph_moves_no_byte_more_than_the_model_itself(daemon):
    name = daemon.client.get("/v2/models/identity").json()["inputs"][0]["name"]
    daemon.wait_for(lambda: daemon.client.request("GET", "/serving/default/once/readyz", None, {}).status == 200, 10, "has its graph")
    body, headers = oip.binary_request({name: IMAGE})
    before = copied(daemon)
    answer = daemon.client.request("POST", "/serving/default/once", body, headers)
    assert answer.status == 200 and answer.body.endswith(IMAGE.tobytes())
    found = {why: count - before.get(why, 0) for why, count in copied(daemon).items() if count > before.get(why, 0)}
    assert set(found) == {"gathered"} and IMAGE.nbytes <= found["gathered"] <= IMAGE.nbytes + AROUND, found


def test_a_grpc_message_is_not_moved_or_once_to_align_its_tensor(daemon):
    found = copied_by(daemon, "grpc", IMAGE)
    assert set(found) <= {"aligned"} and found.get("aligned", 0) in (0, IMAGE.nbytes), found


def test_numbers_in_json_are_read_where_they_arrived_and_written_once(daemon):
    tensor = IMAGE[:, :100_000]
    found = copied_by(daemon, "json", tensor)
    # Only the text is gathered; the tensor that is made of it goes to the engine as it is.
    assert set(found) <= {"gathered"}, found
