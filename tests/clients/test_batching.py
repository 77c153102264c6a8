"""Requests joined into batches: KServe's batcher on v1, and any wire by annotation. Real model, real daemon."""

import concurrent.futures
import json

import numpy as np
import oip
import pytest
from daemon import ROOT, Daemon

IRIS = ROOT / "models" / "iris" / "model.onnx"
ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.1, 4.4, 1.4], [6.3, 3.3, 6.0, 2.5], [5.0, 3.4, 1.5, 0.2]], np.float32)


def manifest(name, annotations="", batcher=""):
    """An InferenceService over the iris model."""
    return "\n".join(
        [
            "apiVersion: serving.kserve.io/v1beta1",
            "kind: InferenceService",
            "metadata:",
            f"  name: {name}",
            f"  annotations: {{{annotations}}}",
            "spec:",
            "  predictor:",
            *([f"    batcher: {{{batcher}}}"] if batcher else []),
            "    model:",
            "      modelFormat: {name: onnx}",
            "      storageUri: iris/model.onnx",
            "",
        ]
    )


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    daemon = Daemon(tmp_path_factory.mktemp("batching"))
    (daemon.models / "iris").mkdir()
    (daemon.models / "iris" / "model.onnx").write_bytes(IRIS.read_bytes())
    daemon.write("plain.yaml", manifest("plain"))
    # A batch waits until it is full, so who shares one does not depend on how fast this machine is.
    daemon.write("kserve.yaml", manifest("kserve", 'kserved.io/batch-delay-ms: "30000"', "maxBatchSize: 4, maxLatency: 30000"))
    daemon.write("eager.yaml", manifest("eager", "", "maxBatchSize: 32, maxLatency: 5000"))
    daemon.write("joined.yaml", manifest("joined", 'kserved.io/batch-size: "4", kserved.io/batch-delay-ms: "30000"'))
    daemon.write("wrong.yaml", manifest("wrong", 'kserved.io/batch-size: "many"'))
    daemon.start()
    yield daemon
    assert daemon.stop() == 0, daemon.tail()


def predict(daemon, name, body):
    client = daemon.new_client()
    try:
        return client.request("POST", f"/v1/models/{name}:predict", json.dumps(body).encode(), {"content-type": "application/json"})
    finally:
        client.close()


def all_at_once(calls):
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(60) for future in [pool.submit(call) for call in calls]]


def test_callers_of_kserves_batcher_share_a_batch_and_get_their_own_slices(daemon):
    bodies = [{"instances": ROWS[:1].tolist()}, {"instances": ROWS[1:3].tolist()}, {"instances": ROWS[3:].tolist()}]
    answers = [answer.json() for answer in all_at_once([lambda body=body: predict(daemon, "kserve", body) for body in bodies])]
    expected = predict(daemon, "plain", {"instances": ROWS.tolist()}).json()["predictions"]
    assert [list(answer) for answer in answers] == [["message", "batchId", "predictions"]] * 3
    assert len({answer["batchId"] for answer in answers}) == 1
    assert [row for answer in answers for row in answer["predictions"]] == expected


def test_one_caller_does_not_wait_for_others_where_a_worker_is_free(daemon):
    answer = predict(daemon, "eager", {"instances": ROWS[:2].tolist()}).json()
    assert answer["message"] == "" and len(answer["batchId"]) == 36 and len(answer["predictions"]) == 2


@pytest.mark.parametrize("body", [{"instances": []}, {"inputs": ROWS.tolist()}, {}])
def test_the_batcher_takes_instances_and_nothing_else(daemon, body):
    answer = predict(daemon, "eager", body)
    assert answer.status == 400 and "no instances in the request" in answer.json()["error"]


def test_requests_of_every_wire_are_joined_by_annotation_and_keep_their_form(daemon):
    def ask(wire, row):
        client = daemon.new_client()
        try:
            return client.infer(wire, "joined", {"measurements": ROWS[row : row + 1]})
        finally:
            client.close()

    expected = daemon.client.infer("binary", "plain", {"measurements": ROWS})
    wires = ["json", "binary", "grpc", "json"]
    answers = all_at_once([lambda wire=wire, row=row: ask(wire, row) for row, wire in enumerate(wires)])
    for row, answer in enumerate(answers):
        assert not oip.difference({key: value[row : row + 1] for key, value in expected.items()}, answer)
    lines = daemon.client.get("/metrics").body.decode().splitlines()
    assert [line.split()[-1] for line in lines if line.startswith("kserved_batches_total") and 'model="joined"' in line] == ["1"]


def test_an_annotation_that_is_no_number_is_named_in_the_status(daemon):
    found = daemon.resource("wrong")
    assert "kserved.io/batch-size" in json.dumps(found["status"]) and "many" in json.dumps(found["status"])
