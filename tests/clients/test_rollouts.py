"""Canaries seen from outside: shares, tags, sticky callers, promotions and roll-backs under load, and the judge."""

import collections
import itertools
import json
import math
import subprocess

import grpc
import numpy as np
import oip
import pytest
from test_swap import REVISION, Callers, X, mixed_up, revision, write_model

HEADERS = {"content-type": "application/json"}
BODY = json.dumps({"inputs": [{**oip.head("x", X), "data": oip.listed(X)}]}).encode()
INFER = "/v2/models/adder/infer"


def manifest(version, percent=None, annotations="", predictor=""):
    """The service `adder`, whose model of that version answers `x` + version."""
    share = "" if percent is None else f"\n    canaryTrafficPercent: {percent}"
    return f"""apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: adder
  annotations: {{{annotations}}}
spec:
  predictor:{share}{predictor}
    model:
      modelFormat: {{name: onnx}}
      protocolVersion: v2
      storageUri: adder/{version}.onnx
"""


def start(daemon, versions, first=None, config=""):
    """Serves version 1; the models of all versions lie ready."""
    (daemon.models / "adder").mkdir()
    for version in versions:
        write_model(daemon.models / "adder" / f"{version}.onnx", version)
    daemon.write("adder.yaml", first or manifest(1))
    daemon.start(config="control:\n  debounce_ms: 5\n" + config)
    daemon.wait_ready("adder")


def traffic(daemon):
    """Percent of each target of the status, by revision number and tag: `{"2:latest": 10, "1:prev": 90}`."""
    predictor = (daemon.resource("adder") or {}).get("status", {}).get("components", {}).get("predictor", {})
    targets = predictor.get("traffic", [])
    return {f"{int(t['revisionName'].rsplit('-', 1)[1])}:{t.get('tag', '')}": t["percent"] for t in targets}


def change(daemon, text, wanted):
    """Writes the manifest and waits until requests go as wanted."""
    daemon.write("adder.yaml", text)
    daemon.wait_for(lambda: daemon.is_ready("adder") and traffic(daemon) == wanted, 30, f"has traffic {wanted}")


def ask_http(client, headers=None, path=INFER):
    """Revision and answer over HTTP."""
    answer = client.ok("POST", path, BODY, {**HEADERS, **(headers or {})})
    return answer.headers[REVISION], tuple(answer.json()["outputs"][0]["data"])


def ask_grpc(stub, metadata=()):
    """Revision and answer over gRPC."""
    message = oip.grpc_request("adder", {"x": X})
    message.raw_input_contents.append(oip.raw(X))
    response, call = stub.ModelInfer.with_call(message, timeout=60, metadata=metadata)
    told = dict(itertools.chain(call.initial_metadata(), call.trailing_metadata()))
    return told[REVISION], tuple(np.frombuffer(response.raw_output_contents[0], np.float32).tolist())


def answer_of(version):
    return tuple((X[0] + version).tolist())


NAMES = {number: f"adder-predictor-{number:05}" for number in range(1, 9)}


def split_requests(daemon):
    """What the metrics count for each revision of the split."""
    lines = daemon.client.get("/metrics").body.decode().splitlines()
    found = (line for line in lines if line.startswith("kserved_split_requests_total{"))
    return {name: int(line.rsplit(" ", 1)[1]) for line in found for name in NAMES.values() if f'"{name}"' in line}


def test_of_ten_thousand_requests_a_tenth_goes_to_the_canary_over_http_and_grpc_and_each_is_counted(daemon):
    requests, percent = 10_000, 10
    start(daemon, [1, 2])
    change(daemon, manifest(2, percent), {"2:": percent, "1:prev": 100 - percent})
    client, seen = daemon.client, collections.Counter()
    wires = [lambda: ask_http(client), lambda: ask_grpc(client.stub)]
    for number in range(requests):
        seen[wires[number % 2]()] += 1
    assert set(seen) == {(NAMES[1], answer_of(1)), (NAMES[2], answer_of(2))}, "each answer is of the revision it names"
    expected, sigma = requests * percent / 100, math.sqrt(requests * percent / 100 * (1 - percent / 100))
    assert abs(seen[NAMES[2], answer_of(2)] - expected) < 5 * sigma, seen
    counted = split_requests(daemon)
    assert counted == {name: count for (name, _), count in seen.items()}
    statistics = client.get("/v2/models/adder/stats").json()["model_stats"]
    assert sorted(model["inference_count"] for model in statistics) == sorted(seen.values()), "one entry a revision"


def test_each_message_of_a_stream_is_drawn_for_itself(daemon):
    start(daemon, [1, 2])
    change(daemon, manifest(2, 50), {"2:": 50, "1:prev": 50})
    message = oip.grpc_request("adder", {"x": X})
    message.raw_input_contents.append(oip.raw(X))
    seen = set()
    for answer in daemon.client.stub.ModelStreamInfer(iter([message] * 200), timeout=60):
        assert not answer.error_message
        response = answer.infer_response
        numbers = np.frombuffer(response.raw_output_contents[0], np.float32).tolist()
        seen.add((response.parameters[REVISION].string_param, tuple(numbers)))
    assert seen == {(NAMES[1], answer_of(1)), (NAMES[2], answer_of(2))}


def test_tags_reach_one_revision_each_by_host_and_by_path(daemon):
    tags = 'serving.kserve.io/enable-tag-routing: "true"'
    template = "protocol:\n  path_template: /serving/{namespace}/{name}\n"
    start(daemon, [1, 2], manifest(1, annotations=tags), template)
    change(daemon, manifest(2, 0, tags), {"2:latest": 0, "1:prev": 100})
    client = daemon.client
    for tag, number in [("latest", 2), ("prev", 1)]:
        wanted = (NAMES[number], answer_of(number))
        for host in [f"{tag}-adder-predictor.default.example.com", f"{tag}-adder.default.example.com", f"{tag}-adder.default"]:
            assert ask_http(client, {"host": host}) == wanted, host
        for name in [f"{tag}-adder", f"{tag}-adder-predictor"]:
            assert ask_http(client, path=f"/serving/default/{name}{INFER}") == wanted, name
        authority = [("grpc.default_authority", f"{tag}-adder-predictor.default.example.com")]
        with grpc.insecure_channel(daemon.grpc, options=authority) as channel:
            assert ask_grpc(oip.service_pb2_grpc.GRPCInferenceServiceStub(channel)) == wanted
    assert {ask_http(client) for _ in range(100)} == {(NAMES[1], answer_of(1))}, "a dark launch gets nothing else"
    change(daemon, manifest(2, None), {"2:": 100})
    assert client.request("POST", INFER, BODY, {**HEADERS, "host": "prev-adder.default.example.com"}).status == 404


def test_the_command_line_shows_both_shares(daemon):
    start(daemon, [1, 2])
    change(daemon, manifest(2, 30), {"2:": 30, "1:prev": 70})
    printed = subprocess.run(
        [daemon.binary, "get", "isvc", "-o", "wide", "--server", f"http://{daemon.http}"], capture_output=True, text=True, check=True
    ).stdout
    head, row = (line.split() for line in printed.splitlines()[:2])
    shown = dict(zip(head, row))
    assert (shown["PREV"], shown["LATEST"]) == ("70", "30")
    assert (shown["PREVROLLEDOUTREVISION"], shown["LATESTREADYREVISION"]) == (NAMES[1], NAMES[2])


def test_a_caller_with_a_sticky_header_keeps_his_revision_over_both_wires(daemon):
    sticky = "kserved.io/sticky-header: X-User-Id"
    start(daemon, [1, 2], manifest(1, annotations=sticky))
    change(daemon, manifest(2, 50, sticky), {"2:": 50, "1:prev": 50})
    client, users = daemon.client, [f"user-{number}" for number in range(60)]

    def sides():
        return {user: ask_http(client, {"x-user-id": user})[0] for user in users}

    first = sides()
    assert set(first.values()) == {NAMES[1], NAMES[2]}
    assert all(sides() == first for _ in range(3))
    assert {user: ask_grpc(client.stub, [("x-user-id", user)])[0] for user in users} == first
    change(daemon, manifest(2, 80, sticky), {"2:": 80, "1:prev": 20})
    grown = sides()
    assert all(grown[user] == NAMES[2] for user in users if first[user] == NAMES[2]), "nobody is moved back"
    assert {ask_http(client)[0] for _ in range(200)} == {NAMES[1], NAMES[2]}, "without the header it is drawn"


@pytest.mark.parametrize("wires", [["http", "grpc", "http", "grpc"]])
def test_canaries_come_grow_are_rolled_back_and_promoted_under_load_without_a_failed_request(daemon, wires):
    start(daemon, range(1, 7))
    version_of = {revision(daemon): 1}
    with Callers(daemon, wires) as callers:
        for new in range(2, 7):
            old = new - 1
            version_of[NAMES[new]] = new
            change(daemon, manifest(new, 20), {f"{new}:": 20, f"{old}:prev": 80})
            change(daemon, manifest(new, 60), {f"{new}:": 60, f"{old}:prev": 40})
            change(daemon, manifest(new, 0), {f"{new}:": 0, f"{old}:prev": 100})
            change(daemon, manifest(new), {f"{new}:": 100})
            # Rolled back after it had everything: the one before is loaded again, and takes over once it is warm.
            change(daemon, manifest(new, 0), {f"{new}:": 0, f"{old}:prev": 100})
            change(daemon, manifest(new), {f"{new}:": 100})
    assert not callers.failures, callers.failures[:3]
    assert not (mixed := mixed_up(callers.seen, version_of)), mixed[:3]
    assert {name for name, _ in callers.seen} == set(version_of), "callers saw every revision"


def test_a_split_outlives_a_restart(daemon):
    start(daemon, [1, 2])
    change(daemon, manifest(2, 20), {"2:": 20, "1:prev": 80})
    assert daemon.stop() == 0
    daemon.start()
    daemon.wait_for(lambda: traffic(daemon) == {"2:": 20, "1:prev": 80}, 30, "splits again")
    assert {ask_http(daemon.client) for _ in range(200)} == {(NAMES[1], answer_of(1)), (NAMES[2], answer_of(2))}


def test_a_broken_canary_takes_no_requests_and_says_why(daemon):
    start(daemon, [1])
    (daemon.models / "adder" / "2.onnx").write_bytes(b"not a model")
    daemon.write("adder.yaml", manifest(2, 50))
    daemon.wait_for(lambda: (daemon.condition("adder") or {}).get("reason") == "ModelLoadFailed", 30, "says that it failed")
    status = daemon.resource("adder")["status"]
    assert status["modelStatus"]["transitionStatus"] == "BlockedByFailedLoad"
    assert {ask_http(daemon.client) for _ in range(100)} == {(NAMES[1], answer_of(1))}


CANARY = """  canary:
  - trafficPercent: {percent}
    predictor:
      name: v2
      model:
        modelFormat: {{name: onnx}}
        storageUri: adder/2.onnx
"""


def test_a_canary_predictor_shares_requests_and_is_promoted_without_a_load(daemon):
    standard = "serving.kserve.io/deploymentMode: Standard"
    start(daemon, [1, 2], manifest(1, annotations=standard))
    daemon.write("adder.yaml", manifest(1, annotations=standard) + CANARY.format(percent=40))
    daemon.wait_for(lambda: (daemon.condition("adder", "CanaryPredictorReady") or {}).get("status") == "True", 30, "has its canary")
    status = daemon.resource("adder")["status"]
    assert [(c["name"], c["ready"], c["trafficPercent"]) for c in status["canaryStatuses"]] == [("v2", True, 40)]
    seen = collections.Counter(ask_http(daemon.client) for _ in range(500))
    assert {answer for _, answer in seen} == {answer_of(1), answer_of(2)}
    (name,) = (name for name, answer in seen if answer == answer_of(2))
    assert ask_http(daemon.client, {"host": "adder-v2-predictor.default.svc.cluster.local"}) == (name, answer_of(2))
    daemon.write("adder.yaml", manifest(2, annotations=standard, predictor="\n    name: v2"))
    daemon.wait_for(lambda: "canaryStatuses" not in daemon.resource("adder")["status"], 30, "is promoted")
    assert {ask_http(daemon.client) for _ in range(100)} == {(name, answer_of(2))}, "the very same revision"


@pytest.mark.parametrize("canary, verdict", [(1.0078125, "Promoted"), (2, "RolledBack")])
def test_the_judge_compares_shadowed_answers_and_decides(daemon, canary, verdict):
    judge = (
        'kserved.io/canary-judge: "true", kserved.io/judge-requests: "30", kserved.io/judge-drift-tolerance: "0.01", '
        'kserved.io/judge-shadow-percent: "100", kserved.io/judge-latency-ratio: "1000"'
    )
    start(daemon, [1, canary], manifest(1, annotations=judge), "autoscaling:\n  tick_ms: 50\n")
    change(daemon, manifest(canary, 50, judge), {"2:": 50, "1:prev": 50})
    client = daemon.client

    def judged():
        told = {ask_http(client) for _ in range(20)}
        assert told <= {(NAMES[1], answer_of(1)), (NAMES[2], answer_of(canary))}
        return (daemon.condition("adder", "CanaryJudged") or {}).get("reason") in ("Promoted", "RolledBack")

    daemon.wait_for(judged, 60, "is judged")
    condition = daemon.condition("adder", "CanaryJudged")
    assert (condition["reason"], condition["severity"]) == (verdict, "Info"), condition
    assert "compared answers differ" in condition["message"]
    daemon.wait_for(lambda: 100 in traffic(daemon).values(), 30, "moves all requests")
    assert len({ask_http(client) for _ in range(100)}) == 1
    assert ask_http(client)[0] == NAMES[2 if verdict == "Promoted" else 1]
    assert "canaryTrafficPercent: 50" in (daemon.models / "adder.yaml").read_text(), "the file is the user's"
