"""The request logger as web servers see it: CloudEvents, and a sink that hangs."""

import base64
import gzip
import http.server
import json
import socket
import ssl
import subprocess
import threading
import time
import uuid

import pytest
from cloudevents.http import from_http
from daemon import ROOT, service
from oip import http as oip_http

IRIS = ROOT / "models" / "iris" / "model.onnx"
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}]}).encode()
REQUEST = "org.kubeflow.serving.inference.request"
RESPONSE = "org.kubeflow.serving.inference.response"
HASTY = "logger: {retry_first_ms: 10, drain_s: 2}\n"


class Sink:
    """An HTTP server that keeps every event it is sent."""

    def __init__(self):
        self.events = []
        sink = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                sink.events.append((dict(self.headers.items()), from_http(dict(self.headers.items()), body, data_unmarshaller=lambda data: data)))
                self.send_response(202)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def of(self, kind):
        return [event for _, event in self.events if event["type"] == kind]


@pytest.fixture
def sink():
    started = Sink()
    yield started
    started.server.shutdown()


def logged(url, mode="all", more="", annotations="", protocol="v2", name="iris"):
    """An InferenceService with a logger."""
    text = service(name, f"{name}/model.onnx", protocol=protocol)
    text = text.replace("  predictor:\n", f"  predictor:\n    logger:\n      url: {url}\n      mode: {mode}\n{more}")
    return text.replace(f"  name: {name}\n", f"  name: {name}\n  annotations: {{{annotations}}}\n")


def start(daemon, manifest, config=HASTY):
    daemon.add("iris", IRIS)
    daemon.write("iris.yaml", manifest)
    daemon.start(config=config)
    daemon.wait_ready("iris")


def ask(daemon, path="/v2/models/iris/infer", body=None, host=None, method=None, **headers):
    """One request; status and body as they came."""
    connection = oip_http.client.HTTPConnection("127.0.0.1", daemon.ports["http"], timeout=30)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if host:
        sent["host"] = host
    if body is not None:
        sent.setdefault("content-type", "application/json")
    connection.request(method or ("POST" if body is not None else "GET"), path, body, sent)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, data


def body_of(daemon):
    """A request that the model takes."""
    name = daemon.client.get("/v2/models/iris").json()["inputs"][0]["name"]
    return BODY.replace(b'"x"', json.dumps(name).encode())


def metric(daemon, name, **labels):
    lines = daemon.client.get("/metrics").body.decode().splitlines()
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{") and all(label in line for label in wanted))


def test_requests_and_answers_arrive_as_cloud_events(daemon, sink):
    more = "      metadataHeaders: [X-Request-Id, x-team, X-Stage]\n      metadataAnnotations: [owner, none]\n"
    start(daemon, logged(sink.url, more=more, annotations="owner: flowers"))
    body = body_of(daemon)
    daemon.wait_for(lambda: len(sink.events) >= 2, 10, "delivers the metadata request")
    sink.events.clear()
    status, answer = ask(daemon, body=body, ce_id="mine-1", x_request_id="r-9", x_team="a", x_stage="live")
    assert status == 200
    daemon.wait_for(lambda: len(sink.events) >= 2, 10, "delivers both")
    for kind, data in [(REQUEST, body), (RESPONSE, answer)]:
        [event] = sink.of(kind)
        assert event["specversion"] == "1.0" and event["id"] == "mine-1" and event.data == data
        assert (event["inferenceservicename"], event["namespace"], event["component"]) == ("iris", "default", "predictor")
        assert json.loads(event["metadata"]) == {"X-Request-Id": ["r-9"], "X-Stage": ["live"]}, "exact canonical names only"
        assert json.loads(event["annotations"]) == {"owner": "flowers"}
        assert event["datacontenttype"] == "application/json" and event["source"] == "iris-predictor"
        assert event["time"] <= event["recordedtime"]
    assert set(name for name in map(str.lower, sink.events[0][0]) if name.startswith("ce-")) == {
        "ce-specversion", "ce-id", "ce-type", "ce-source", "ce-time", "ce-inferenceservicename", "ce-namespace", "ce-component",
        "ce-metadata", "ce-annotations", "ce-recordedtime",
    }


def test_every_way_to_the_service_is_logged_and_probes_and_failures_are_not(daemon, sink):
    start(daemon, logged(sink.url))
    body = body_of(daemon)
    daemon.wait_for(lambda: len(sink.events) >= 2, 10, "delivers the metadata request")
    sink.events.clear()
    assert ask(daemon, host="iris.default.example.com", body=body)[0] == 200
    assert ask(daemon, path="/serving/default/iris/v2/models/iris/infer", body=body)[0] == 200
    status, metadata = ask(daemon, path="/v2/models/iris")
    assert status == 200
    assert ask(daemon, path="/v2/models/iris", user_agent="kube-probe/1.31")[0] == 200
    assert ask(daemon, body=b"{")[0] == 400
    assert ask(daemon, path="/v2/health/ready")[0] == 200, "no service's, on a bare host"
    daemon.wait_for(lambda: len(sink.events) >= 7, 10, "delivers")
    ids = {event["id"] for event in sink.of(REQUEST)}
    assert len(sink.of(REQUEST)) == 4 and len(ids) == 4 and all(uuid.UUID(one) for one in ids)
    assert b"{" in [event.data for event in sink.of(REQUEST)], "a request that fails is logged"
    assert len(sink.of(RESPONSE)) == 3, "its answer is not"
    assert metadata in [event.data for event in sink.of(RESPONSE)]
    answered = {event["id"] for event in sink.of(RESPONSE)}
    assert answered < ids


def test_the_bytes_are_those_of_the_wire(daemon, sink):
    start(daemon, logged(sink.url, mode="request"))
    body = body_of(daemon)
    sink.events.clear()
    packed = gzip.compress(body)
    assert ask(daemon, body=packed, content_encoding="gzip")[0] == 200
    daemon.wait_for(lambda: packed in [event.data for event in sink.of(REQUEST)], 10, "delivers the packed body")
    large = body.replace(b"[1, 4]", b"[5000, 4]").replace(b"[5.1, 3.5, 1.4, 0.2]", b"[" + b",".join([b"5.1, 3.5, 1.4, 0.2"] * 5000) + b"]")
    pieces = [large[at : at + 7000] for at in range(0, len(large), 7000)]
    assert ask(daemon, body=iter(pieces))[0] == 200
    daemon.wait_for(lambda: large in [event.data for event in sink.of(REQUEST)], 10, "delivers the body that came in pieces")
    over_http2 = ["curl", "-s", "--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{http_code}", "--data-binary", "@-"]
    over_http2 += ["-H", "content-type: application/json", "-H", "ce-id: over-2", f"http://{daemon.http}/v2/models/iris/infer"]
    assert subprocess.run(over_http2, input=large, capture_output=True, timeout=30, check=True).stdout == b"200"
    found = daemon.wait_for(lambda: [event.data for event in sink.of(REQUEST) if event["id"] == "over-2"], 10, "delivers what came over HTTP/2")
    assert found == [large]
    assert not sink.of(RESPONSE)


def test_a_change_of_the_logger_alone_loads_nothing_anew(daemon, sink):
    start(daemon, logged(sink.url, mode="request"))
    revision = daemon.resource("iris")["status"]["components"]["predictor"]["latestReadyRevision"]
    body = body_of(daemon)
    daemon.write("iris.yaml", logged(sink.url, mode="response"))
    daemon.wait_for(lambda: daemon.resource("iris")["metadata"]["generation"] == 2, 10, "reads the change")

    def answers_are_logged():
        assert ask(daemon, body=body)[0] == 200
        return sink.of(RESPONSE)

    daemon.wait_for(answers_are_logged, 10, "logs answers")
    assert daemon.resource("iris")["status"]["components"]["predictor"]["latestReadyRevision"] == revision
    daemon.write("iris.yaml", service("iris", "iris/model.onnx"))
    daemon.wait_for(lambda: daemon.resource("iris")["metadata"]["generation"] == 3, 10, "reads the change")
    assert daemon.resource("iris")["status"]["components"]["predictor"]["latestReadyRevision"] == revision


def test_a_sink_that_hangs_loses_records_while_serving_goes_on(daemon):
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen(64)
        config = "logger: {service_records_max: 8, deadline_s: 2, attempt_timeout_s: 1, retry_first_ms: 10, drain_s: 1}\n"
        start(daemon, logged(f"http://127.0.0.1:{hanging.getsockname()[1]}/"), config)
        body = body_of(daemon)
        for _ in range(100):
            assert ask(daemon, body=body)[0] == 200
        daemon.wait_for(lambda: metric(daemon, "kserved_logger_dropped_total", service="default/iris", reason="full") > 0, 10, "drops")
        daemon.wait_for(lambda: metric(daemon, "kserved_logger_dropped_total", reason="undelivered") > 0, 20, "gives up")
        assert ask(daemon, body=body)[0] == 200
        assert daemon.log.read_text().count("the request log is full") >= 1
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 30, "the end waits within its bound"


def test_large_bodies_for_a_sink_that_hangs_take_no_more_memory_than_they_may(daemon):
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen(64)
        config = "logger: {service_bytes_max: 16777216, drain_s: 1}\n"
        start(daemon, logged(f"http://127.0.0.1:{hanging.getsockname()[1]}/", mode="request"), config)
        name = daemon.client.get("/v2/models/iris").json()["inputs"][0]["name"]
        rows = 50_000
        body = json.dumps({"inputs": [{"name": name, "shape": [rows, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2] * rows}]}).encode()
        for _ in range(5):
            assert ask(daemon, body=body)[0] == 200
        before = daemon.rss_mib()
        for _ in range(60):
            assert ask(daemon, body=body)[0] == 200
        assert metric(daemon, "kserved_logger_dropped_total", reason="full") > 30
        assert daemon.rss_mib() - before < 40, "60 MiB passed, 16 MiB may wait"


def test_a_sink_that_is_gone_is_told_once(daemon):
    start(daemon, logged("http://127.0.0.1:9/"), "logger: {attempts_max: 1}\n")
    body = body_of(daemon)
    for _ in range(10):
        assert ask(daemon, body=body)[0] == 200
    daemon.wait_for(lambda: metric(daemon, "kserved_logger_dropped_total", reason="undelivered") >= 20, 10, "gives up")
    assert daemon.log.read_text().count("the request log cannot be delivered") == 1


def certificate(folder):
    """A certificate for 127.0.0.1 and its key."""
    names = [str(folder / name) for name in ["cert.pem", "key.pem"]]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=sink", "-out", names[0], "-keyout", names[1]]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return names


@pytest.mark.parametrize("trust", ["nobody", "bundle", "anybody"])
def test_a_sink_behind_tls_is_checked_as_the_config_map_says(daemon, sink, tmp_path, trust):
    files = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    sink.server.socket = context.wrap_socket(sink.server.socket, server_side=True)
    settings = {"bundle": {"caBundle": "certs", "caCertFile": "ca.crt"}, "anybody": {"tlsSkipVerify": True}}.get(trust, {})
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: %s}\ndata:\n"
    pem = "".join(f"    {line}\n" for line in (tmp_path / "cert.pem").read_text().splitlines())
    daemon.write("certs.yaml", head % ("certs", "default") + "  ca.crt: |\n" + pem)
    daemon.write("settings.yaml", head % ("inferenceservice-config", "kserve") + f"  logger: {json.dumps(settings)}\n")
    start(daemon, logged(sink.url.replace("http:", "https:")), "logger: {attempts_max: 1}\n")
    body = body_of(daemon)
    assert ask(daemon, body=body)[0] == 200
    if trust == "nobody":
        daemon.wait_for(lambda: metric(daemon, "kserved_logger_dropped_total", reason="undelivered") >= 4, 10, "gives up")
        assert not sink.events
    else:
        daemon.wait_for(lambda: body in [event.data for event in sink.of(REQUEST)], 10, "delivers")
