"""Models that sleep and wake, and more models than fit into memory, seen from outside."""

import os
import threading

import numpy as np
import oip
import onnx
import pytest
from daemon import FIXTURES, ROOT, service
from oip import WIRES
from onnx import TensorProto, helper, numpy_helper

IRIS = ROOT / "models" / "iris" / "model.onnx"
MIB = 1 << 20
HASTY = "autoscaling: {tick_ms: 100, stable_window_s: 1, scale_to_zero_grace_s: 1}\n"


def scaled(name, predictor, annotations=""):
    """An InferenceService with these lines in its predictor."""
    text = service(name, f"{name}/model.onnx").replace("  predictor:\n", f"  predictor:\n    {predictor}\n")
    return text.replace(f"  name: {name}\n", f"  name: {name}\n  annotations: {{{annotations}}}\n")


def weights_model(path, mebibytes, seed):
    """`y = x @ W`: W is square, has so many MiB, and differs by seed in its first element."""
    side = int((mebibytes * MIB / 4) ** 0.5)
    weights = np.zeros((side, side), np.float32)
    weights[0, 0] = seed
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "weights",
        [tensor("x", TensorProto.FLOAT, ["n", side])],
        [tensor("y", TensorProto.FLOAT, ["n", side])],
        [numpy_helper.from_array(weights, "w")],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return side


def is_asleep(daemon, name):
    return daemon.condition(name, "Asleep") is not None


def metric(daemon, name):
    lines = daemon.client.get("/metrics").body.decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def flower(daemon):
    """Inputs of iris, under the name its metadata tells."""
    return {daemon.client.get("/v2/models/iris").json()["inputs"][0]["name"]: np.array([[5.1, 3.5, 1.4, 0.2]], np.float32)}


def together(work):
    """Runs each piece of work on a thread of its own, and waits for all of them."""
    threads = [threading.Thread(target=piece) for piece in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_model_with_min_replicas_zero_sleeps_and_the_first_request_wakes_it(daemon):
    daemon.add("iris", IRIS)
    daemon.write("iris.yaml", scaled("iris", "minReplicas: 0"))
    daemon.start(config=HASTY)
    for _ in range(2):
        daemon.wait_for(lambda: is_asleep(daemon, "iris"), 30, "iris sleeps")
        # Whatever looks at it finds it ready and leaves it asleep.
        inputs = flower(daemon)
        for path in ["/v2/models/iris/ready", "/v2/health/ready", "/v1/models/iris", "/metrics", "/v2/models/iris/stats", "/readyz"]:
            assert daemon.client.get(path).status == 200, path
        assert daemon.is_ready("iris") and is_asleep(daemon, "iris")
        assert metric(daemon, "kserved_models_asleep") == 1
        assert metric(daemon, "kserved_replicas_ready") == 0
        for wire in WIRES:
            assert daemon.client.infer(wire, "iris", inputs)
    assert daemon.resource("iris")["status"]["components"]["predictor"]["latestReadyRevision"] == "iris-predictor-00001"


def test_callers_that_come_together_wake_it_once(daemon):
    daemon.add("iris", IRIS)
    daemon.write("iris.yaml", scaled("iris", "minReplicas: 0", "autoscaling.knative.dev/initial-scale: '0'"))
    daemon.start()
    daemon.wait_for(lambda: is_asleep(daemon, "iris"), 30, "iris sleeps")
    inputs, answers = flower(daemon), []

    def ask():
        client = daemon.new_client()
        answers.append(client.infer("binary", "iris", inputs))
        client.close()

    together([ask] * 24)
    assert len(answers) == 24
    assert metric(daemon, "kserved_model_wake_seconds_count") == 1


@pytest.mark.timeout(600)
def test_three_hundred_services_that_do_not_fit_all_answer_and_memory_stays_in_its_bounds(daemon):
    count, mebibytes, budget = 300, 4, 200
    daemon.add("iris", IRIS)
    daemon.start(config=f"memory: {{models_bytes_max: {budget * MIB}}}\n")
    base = daemon.rss_mib()
    for number in range(count):
        side = weights_model(daemon.models / f"m{number}" / "model.onnx", mebibytes, number + 1)
        daemon.write(f"m{number}.yaml", service(f"m{number}", f"m{number}/model.onnx"))
    for number in range(count):
        daemon.wait_ready(f"m{number}", within_s=300)
    failures, peaks = [], []
    x = np.zeros((1, side), np.float32)
    x[0, 0] = 1

    def ask(numbers):
        client = daemon.new_client()
        for number in numbers:
            try:
                assert client.infer("binary", f"m{number}", {"x": x})["y"][0, 0] == number + 1
            except (AssertionError, oip.Refused, OSError) as error:
                failures.append(f"m{number}: {error}")
            peaks.append(daemon.rss_mib())
        client.close()

    for seed in range(2):
        order = np.random.default_rng(seed).permutation(count)
        together([lambda part=part: ask(part) for part in np.array_split(order, 8)])
    asleep, taken = metric(daemon, "kserved_models_asleep"), metric(daemon, "kserved_memory_models_bytes") / MIB
    print(f"{base:.0f} MiB without them, {max(peaks):.0f} MiB at most, {taken:.0f} of {budget} MiB taken, {asleep:.0f} asleep")
    assert failures == []
    assert all(daemon.is_ready(f"m{number}") for number in range(count))
    assert taken <= budget
    assert asleep >= count - budget / mebibytes
    assert max(peaks) <= base + budget


def ask_at_once(daemon, name, callers, iterations):
    """Asks a slow model from so many callers at once; what those that were refused were told."""
    refusals = []

    def ask():
        client = daemon.new_client()
        try:
            client.infer("binary", name, {"iterations": np.array([iterations], np.int64)})
        except oip.Refused as refused:
            refusals.append(refused.answer)
        client.close()

    together([ask] * callers)
    return refusals


def test_a_hard_limit_lets_ten_times_as_many_wait_and_says_so_to_the_rest(daemon):
    daemon.add("slow", FIXTURES / "slow.onnx")
    daemon.write("slow.yaml", scaled("slow", "containerConcurrency: 1\n    maxReplicas: 1"))
    daemon.start()
    refusals = ask_at_once(daemon, "slow", 24, 4000)
    # One runs and ten wait; who comes after the first is done may still find a place.
    assert 1 <= len(refusals) <= 13
    assert {answer.status for answer in refusals} == {503}
    assert all("pending request queue full" in answer.json()["error"] and "retry-after" in answer.headers for answer in refusals)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a second replica needs a second core")
def test_replicas_follow_what_is_asked(daemon):
    daemon.add("slow", FIXTURES / "slow.onnx")
    daemon.write("slow.yaml", scaled("slow", "containerConcurrency: 1\n    maxReplicas: 2"))
    daemon.start(config="autoscaling: {tick_ms: 100, stable_window_s: 1}\n")
    asking = threading.Thread(target=ask_at_once, args=(daemon, "slow", 6, 20_000))
    asking.start()
    daemon.wait_for(lambda: metric(daemon, "kserved_replicas_ready") == 2, 30, "two replicas")
    assert metric(daemon, "kserved_replicas_desired") == 2, "no more than maxReplicas"
    asking.join()
    daemon.wait_for(lambda: metric(daemon, "kserved_replicas_ready") == 1, 30, "one replica again")
    assert daemon.resource("slow")["status"]["modelStatus"]["copies"]["totalCopies"] == 1
    assert daemon.resource("slow")["status"]["components"]["predictor"]["latestReadyRevision"] == "slow-predictor-00001"
