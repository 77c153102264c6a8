"""InferenceGraphs as their callers meet them: real models, every router, every wire, and what KServe's router would say."""

import http.server
import json
import signal
import subprocess
import threading

import grpc
import numpy as np
import oip
import onnx
import packaged
import pytest
from daemon import FIXTURES, ROOT, Daemon
from onnx import TensorProto, helper
from test_folder import in_flight
from test_real_models import FILES, TEXT, drawn, in_process

JSON = {"content-type": "application/json"}


def graph(name, nodes, more="", namespace="default"):
    """An InferenceGraph manifest; nodes by name as `(routerType, [step, ...])`, steps in YAML's flow form."""
    lines = ["apiVersion: serving.kserve.io/v1alpha1", "kind: InferenceGraph", f"metadata: {{name: {name}, namespace: {namespace}}}", "spec:"]
    lines += [more] if more else []
    lines += ["  nodes:"]
    for node, (router, steps) in nodes.items():
        lines += [f"    {node}:", f"      routerType: {router}", "      steps:", *(f"      - {{{step}}}" for step in steps)]
    return "\n".join([*lines, ""])


def affine(path, source, target, scale, offset):
    """A model `target = source * scale + offset` over rows of any length."""
    shape = ["n", "m"]
    nodes = [helper.make_node("Mul", [source, "scale"], ["scaled"]), helper.make_node("Add", ["scaled", "offset"], [target])]
    constants = [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in [("scale", scale), ("offset", offset)]]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in (source, target)]
    made = helper.make_graph(nodes, "affine", *ends, constants)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


class Web(http.server.BaseHTTPRequestHandler):
    """A server elsewhere: answers by path, and remembers what it was asked."""

    asked = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.asked.append((self.path, dict(self.headers), body))
        status, answer = {
            "/teapot": (418, b'{"tea": true}'),
            "/text": (200, b"no json"),
            "/list": (200, b"[1, 2]"),
            "/outputs": (200, b'{"outputs": [{"name": "h", "datatype": "FP32", "shape": [1, 2], "data": [5, 6]}]}'),
        }.get(self.path, (200, body))
        self.send_response(status)
        self.send_header("content-length", str(len(answer)))
        self.send_header("x-secret", "1")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def web():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture(scope="module")
def served(tmp_path_factory, web):
    """One daemon with models and graphs of every kind."""
    daemon = Daemon(tmp_path_factory.mktemp("graphs"))
    affine(daemon.folder / "double.onnx", "x", "h", 2, 0)
    affine(daemon.folder / "inc.onnx", "h", "y", 1, 1)
    affine(daemon.folder / "minus.onnx", "x", "h", -1, 0)
    for name in ["double", "inc", "minus"]:
        daemon.add(name, daemon.folder / f"{name}.onnx")
    daemon.add("double-v1", daemon.folder / "double.onnx", protocol="v1", runtime="kserved-onnx")
    daemon.add("iris", ROOT / "models" / "iris" / "model.onnx")
    daemon.add("fails", FIXTURES / "fails_at_run.onnx")
    for name in ["ocr-cls", "ocr-rec"]:
        package, path = FILES[name]
        daemon.add(name, packaged.member(package, path))
    graphs = {
        "chain": {"root": ("Sequence", ["serviceName: double", "serviceName: inc, data: $response"])},
        "same": {"root": ("Sequence", ["serviceName: double", "serviceName: minus, data: $request"])},
        "unfit": {"root": ("Sequence", ["serviceName: double", "serviceName: double, data: $response"])},
        "mapped": {"root": ("Sequence", ["serviceName: double-v1", "serviceName: double-v1, data: $response, mapPredictionsToInstances: true"])},
        "ocr": {"root": ("Ensemble", ["serviceName: ocr-cls, name: turned", "serviceName: ocr-rec, name: read"])},
        "choose": {
            "root": (
                "Switch",
                [
                    "serviceName: double, condition: '[@this].#(parameters.way==\"up\")'",
                    "serviceName: minus, condition: '[@this].#(parameters.way==down)'",
                    "nodeName: inner, condition: 'instances'",
                ],
            ),
            "inner": ("Switch", ["serviceName: double-v1, condition: 'instances.#(0>10)'"]),
        },
        "split": {"root": ("Splitter", ["serviceName: double, weight: 20", "serviceName: minus, weight: 80"])},
        "teapot": {"root": ("Sequence", [f"serviceUrl: '{web}/teapot', dependency: Hard", "serviceName: double"])},
        "text": {"root": ("Sequence", [f"serviceUrl: '{web}/text'"])},
        "list": {"root": ("Ensemble", [f"serviceUrl: '{web}/list'"])},
        "refused": {"root": ("Sequence", ["serviceUrl: 'http://127.0.0.1:1/x'"])},
        "mixed": {"root": ("Sequence", ["serviceName: double", f"serviceUrl: '{web}/echo', data: $response"])},
        "back": {"root": ("Sequence", [f"serviceUrl: '{web}/outputs'", "serviceName: inc, data: $response"])},
        "by-url": {"root": ("Sequence", ["serviceUrl: 'http://double.default.svc.cluster.local/v2/models/double/infer'"])},
        "nested": {"root": ("Sequence", ["serviceUrl: 'http://chain.default.example.com/'"])},
    }
    for name, nodes in graphs.items():
        daemon.write(f"graph-{name}.yaml", graph(name, nodes))
    daemon.start(config="graphs:\n  propagate_headers: ['^X-Tag$', Request]\n")
    for name in graphs:
        wait_graph(daemon, name)
    yield daemon
    assert daemon.stop() == 0


def resource(daemon, name):
    answer = daemon.client.get(f"/apis/serving.kserve.io/v1alpha1/namespaces/default/inferencegraphs/{name}")
    return answer.json() if answer.status == 200 else {}


def condition(daemon, name, kind="Ready"):
    conditions = resource(daemon, name).get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == kind), {})


def wait_graph(daemon, name, within_s=60):
    daemon.wait_for(lambda: condition(daemon, name).get("status") == "True", within_s, f"InferenceGraph {name} is Ready")


def ask(daemon, name, body, method="POST", path="/", headers=JSON):
    body = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    return daemon.client.request(method, path, body, {"host": f"{name}.default.example.com", **headers})


def v2(rows=((1.0, 2.0),), **more):
    flat = [number for row in rows for number in row]
    return {"inputs": [{"name": "x", "shape": [len(rows), len(rows[0])], "datatype": "FP32", "data": flat}], **more}


def output(answer):
    assert answer.status == 200, answer.body
    return answer.json()["outputs"][0]["data"]


def test_a_sequence_hands_outputs_on_by_name(served):
    answer = ask(served, "chain", v2(id="7"))
    assert output(answer) == [3, 5]
    assert (answer.json()["model_name"], answer.json()["id"]) == ("inc", "7"), "the last step's own body"
    assert "root.0;dur=" in answer.headers["server-timing"] and "root.1;dur=" in answer.headers["server-timing"]
    assert output(ask(served, "same", v2())) == [-1, -2], "`$request` is the caller's body"
    assert output(ask(served, "nested", v2())) == [3, 5], "another graph by its URL, in process"
    assert output(ask(served, "by-url", v2())) == [2, 4], "a service by its URL, in process"


def test_tensors_whose_names_do_not_fit_are_refused_by_the_model_that_wants_others(served):
    answer = ask(served, "unfit", v2())
    assert answer.status == 400 and "`x`" in answer.json()["error"] and "h" in answer.json()["error"], answer.body


def test_predictions_become_instances(served):
    answer = ask(served, "mapped", {"instances": [[1, 2], [3, 4]]})
    assert answer.json() == {"predictions": [[4, 8], [12, 16]]}


def test_any_method_path_and_content_type_run_the_graph(served):
    for method, path, headers in [("GET", "/v1/models", {}), ("PUT", "/metrics?x=1", {"content-type": "text/plain"}), ("DELETE", "/x", JSON)]:
        assert output(ask(served, "chain", v2(), method, path, headers)) == [3, 5]
    below = served.client.request("POST", "/serving/default/chain/any/path", json.dumps(v2()).encode(), JSON)
    assert output(below) == [3, 5]
    assert ask(served, "chain", None, "GET", "/readyz", {}).status == 200


def test_two_real_models_read_one_image_at_once(served):
    image = drawn(TEXT, 320, 48, 34)
    expected = {f"{key}.{name}": array for key, model in [("turned", "ocr-cls"), ("read", "ocr-rec")] for name, array in in_process(model, {"x": image}).items()}
    body, headers = oip.binary_request({"x": image})
    found = oip.binary_answer(ask(served, "ocr", body, headers=headers))
    assert not (wrong := oip.difference(expected, found)), wrong
    found = served.client.infer("grpc", "ocr", {"x": image})
    assert not (wrong := oip.difference(expected, found)), wrong
    answer = ask(served, "ocr", {"inputs": [{**oip.head("x", image), "data": image.ravel().tolist()}]}).json()
    assert list(answer) == ["read", "turned"], "merged by name, sorted"
    for key, model in [("turned", "ocr-cls"), ("read", "ocr-rec")]:
        assert answer[key]["model_name"] == model
        (scores,) = in_process(model, {"x": image}).values()
        assert np.allclose(np.array(answer[key]["outputs"][0]["data"]).reshape(scores.shape), scores, atol=1e-5)


def test_a_switch_looks_at_the_body_and_says_kserves_words_when_nothing_fits(served):
    assert output(ask(served, "choose", v2(parameters={"way": "up"}))) == [2, 4]
    assert output(ask(served, "choose", v2(parameters={"way": "down"}))) == [-1, -2]
    cause = "None of the routes matched with the switch condition"
    answer = ask(served, "choose", v2())
    assert (answer.status, answer.json()) == (404, {"error": "Failed to process request", "cause": cause})
    assert answer.headers["content-type"] == "application/json"
    assert ask(served, "choose", {"instances": [[20, 1]]}).json() == {"predictions": [[40, 2]]}
    answer = ask(served, "choose", {"instances": [[2, 1]]})
    assert (answer.status, answer.json()) == (500, {"error": "Failed to process request", "cause": cause}), "in a node below it is 500"


def test_a_splitter_keeps_its_shares(served):
    up = sum(output(ask(served, "split", v2()))[0] > 0 for _ in range(2000))
    assert 300 < up < 500, f"400 of 2000 are the share; five standard deviations are 90: {up}"


def test_a_step_elsewhere_is_posted_json_and_answers_as_it_is(served):
    Web.asked.clear()
    headers = {**JSON, "x-tag": "a", "x-request-id": "r", "authorization": "secret"}
    answer = ask(served, "mixed", v2(), headers=headers)
    assert answer.json()["outputs"][0]["name"] == "h" and answer.json()["model_name"] == "double", "the answer of the step before, as JSON"
    assert "x-secret" not in answer.headers
    ((path, sent, _),) = Web.asked
    sent = {name.lower(): value for name, value in sent.items()}
    assert (path, sent["x-tag"], sent["x-request-id"], sent["content-type"]) == ("/echo", "a", "r", "application/json")
    assert "authorization" not in sent
    answer = ask(served, "teapot", v2())
    assert (answer.status, answer.json()) == (418, {"tea": True}), "a hard failure ends the sequence"
    answer = ask(served, "text", v2())
    assert (answer.status, answer.body, answer.headers.get("content-type")) == (200, b"no json", None)
    assert output(ask(served, "back", v2())) == [6, 7], "outputs from elsewhere are inputs of a model here"
    found = served.client.infer("grpc", "back", {"x": np.zeros((1, 2), np.float32)})
    assert found["y"].tolist() == [[6, 7]]


def test_failures_have_kserves_words_and_codes(served):
    answer = ask(served, "list", v2())
    cause = "json: cannot unmarshal array into Go value of type map[string]interface {}"
    assert (answer.status, answer.json()) == (500, {"error": "Failed to process request", "cause": cause})
    answer = ask(served, "refused", v2())
    assert answer.status == 500 and answer.json()["error"] == "Failed to process request"
    assert answer.json()["cause"].startswith('Post "http://127.0.0.1:1/x": '), answer.body
    with pytest.raises(grpc.RpcError) as refused:
        served.client.infer("grpc", "refused", {"x": np.zeros((1, 2), np.float32)})
    assert refused.value.code() == grpc.StatusCode.INTERNAL
    with pytest.raises(grpc.RpcError) as refused:
        served.client.infer("grpc", "unfit", {"x": np.zeros((1, 2), np.float32)})
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def copied(daemon):
    lines = daemon.client.get("/metrics").body.decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("kserved_copied_bytes_total"))


@pytest.mark.parametrize("wire", ["binary", "grpc", "typed"])
def test_tensors_go_through_a_graph_without_a_copy_more(served, wire):
    rows = np.random.default_rng(1).normal(size=(1000, 250)).astype(np.float32)
    before = copied(served)
    if wire == "binary":
        body, headers = oip.binary_request({"x": rows})
        found = oip.binary_answer(ask(served, "chain", body, headers=headers))
    else:
        found = served.client.infer(wire, "chain", {"x": rows})
    assert np.array_equal(found["y"], rows * 2 + 1)
    assert copied(served) - before <= rows.nbytes + 4096, "the body into one piece at most, nothing between the steps"


def test_a_missing_service_and_a_circle_are_told_with_their_place_and_the_last_good_graph_serves(served):
    served.write("graph-late.yaml", graph("late", {"root": ("Sequence", ["serviceName: doubel"])}))
    served.wait_for(lambda: condition(served, "late").get("status") == "False", 30, "says that the graph is not ready")
    message = condition(served, "late")["message"]
    assert "graph-late.yaml:9:23: spec.nodes.root.steps[0].serviceName: Failed to find graph service doubel (did you mean `double`?)" in message
    told = [event for event in served.client.get("/api/v1/events").json()["items"] if event["involvedObject"]["name"] == "late"]
    assert [(event["reason"], event["message"]) for event in told] == [("ReconcileFailed", message)]
    answer = ask(served, "late", v2())
    assert answer.status == 503 and "Failed to find graph service doubel" in answer.json()["error"]
    served.write("graph-late.yaml", graph("late", {"root": ("Sequence", ["serviceName: double"])}))
    wait_graph(served, "late")
    circle = {"root": ("Sequence", ["nodeName: a"]), "a": ("Switch", ["nodeName: root, condition: x"])}
    served.write("graph-late.yaml", graph("late", circle))
    events = served.wait_for(
        lambda: [e for e in served.client.get("/api/v1/events").json()["items"] if "in a circle" in e["message"]], 30, "tells of the circle"
    )
    assert "spec.nodes.a.steps[0].nodeName: the nodes call each other in a circle: root -> a -> root" in events[0]["message"]
    assert output(ask(served, "late", v2())) == [2, 4], "the last good one"
    found = command(served, "validate", served.models / "graph-late.yaml")
    assert found.returncode == 1 and "graph-late.yaml:" in found.stdout and "in a circle" in found.stdout, found.stdout


def command(daemon, *arguments):
    return subprocess.run([daemon.binary, *arguments], capture_output=True, text=True, cwd=daemon.folder, check=False)


def test_a_circle_through_the_network_ends_at_the_bound(served):
    """A graph that calls itself by an address nobody can tell is its own."""
    url = f"http://{served.http}/serving/default/circle"
    served.write("graph-circle.yaml", graph("circle", {"root": ("Sequence", [f"serviceUrl: '{url}'"])}))
    wait_graph(served, "circle")
    answer = ask(served, "circle", v2())
    assert (answer.status, answer.json()["cause"]) == (500, "more than 16 graphs call one another: is there a circle?")


def test_get_describe_and_validate_know_graphs(served):
    server = ["--server", f"http://{served.http}"]
    table = command(served, "get", "ig", "chain", *server).stdout.splitlines()
    assert table[0].split() == ["NAME", "URL", "READY", "AGE"]
    assert table[1].split()[:3] == ["chain", "http://chain.default.example.com", "True"]
    told = command(served, "describe", "ig", "choose", *server).stdout
    for part in ["Nodes:", "inner", "Switch", "instances.#(0>10)", "Ready"]:
        assert part in told, told
    assert resource(served, "chain")["status"]["deploymentMode"] == "Knative"
    checked = command(served, "validate", served.models)
    assert "InferenceGraph/default/chain: ok: 1 nodes, 2 steps" in checked.stdout, checked.stdout


def test_the_sample_of_the_documentation_works_as_it_stands(served):
    page = (ROOT / "docs" / "graphs.md").read_text()
    served.write("graph-sample.yaml", page.split("```yaml\n")[1].split("```")[0])
    wait_graph(served, "flowers")
    flower = {"name": "measurements", "datatype": "FP32", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}
    assert output(ask(served, "flowers", {"inputs": [flower]})) == ["setosa"]
    both = ask(served, "flowers", {"inputs": [flower], "parameters": {"compare": True}}).json()
    assert {key: body["model_name"] for key, body in both.items()} == {"first": "iris", "second": "iris"}
    assert ask(served, "flowers", {}).status == 404


def test_a_graph_in_flight_is_finished_at_the_end(daemon):
    daemon.add("slow", FIXTURES / "slow.onnx")
    daemon.write("graph.yaml", graph("twice", {"root": ("Sequence", ["serviceName: slow", "serviceName: slow, dependency: Hard"])}))
    daemon.start()
    wait_graph(daemon, "twice")
    answers = []

    def call():
        client = daemon.new_client()
        answers.append(client.infer("grpc", "twice", {"iterations": np.array([10000], np.int64)}))
        client.close()

    caller = threading.Thread(target=call)
    caller.start()
    daemon.wait_for(lambda: in_flight(daemon), 10, "runs the first step")
    daemon.process.send_signal(signal.SIGTERM)
    caller.join()
    assert len(answers) == 1 and answers[0]["y"].shape == (1,), "both steps were taken"
    assert daemon.process.wait(20) == 0


def test_a_graph_follows_a_model_that_changes_under_load(served):
    """A new revision of a step's model takes over without a failed request to the graph."""
    served.write("graph-alive.yaml", graph("alive", {"root": ("Sequence", ["serviceName: live"])}))
    affine(served.folder / "live.onnx", "x", "h", 3, 0)
    served.add("live", served.folder / "live.onnx")
    wait_graph(served, "alive")
    stop, answers = threading.Event(), []

    def load():
        client = served.new_client()
        while not stop.is_set():
            body = json.dumps(v2()).encode()
            answers.append(client.request("POST", "/", body, {"host": "alive.default.example.com", **JSON}))
        client.close()

    caller = threading.Thread(target=load)
    caller.start()
    affine(served.models / "live" / "next.onnx", "x", "h", 4, 0)
    manifest = (served.models / "live.yaml").read_text()
    served.write("live.yaml", manifest.replace("live/model.onnx", "live/next.onnx"))
    served.wait_for(lambda: output(ask(served, "alive", v2())) == [4, 8], 30, "serves the new model in the graph")
    stop.set()
    caller.join()
    assert answers and all(answer.status == 200 for answer in answers)
