"""KServe's own ConfigMap, followed while it changes; Secrets and ServiceAccounts beside it."""

import http.server
import json
import subprocess
import threading

from daemon import BINARY, ROOT, service
from test_logger import Sink, ask, body_of

IRIS = ROOT / "models" / "iris" / "model.onnx"
SECRET = """apiVersion: v1
kind: Secret
metadata: {name: opener, annotations: {serving.kserve.io/s3-endpoint: minio}}
type: Opaque
data: {AWS_ACCESS_KEY_ID: c2VzYW1l}
stringData: {AWS_SECRET_ACCESS_KEY: open-sesame}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: sa}
secrets: [{name: opener}]
"""


def config_map(namespace="kserve", **keys):
    """KServe's ConfigMap, each key as JSON text in a block."""
    lines = ["apiVersion: v1", "kind: ConfigMap", "metadata:", "  name: inferenceservice-config", f"  namespace: {namespace}", "data:"]
    for key, value in keys.items():
        lines += [f"  {key}: |-"] + [f"    {line}" for line in json.dumps(value, indent=2).splitlines()]
    return "\n".join(lines) + "\n"


def url(daemon, name):
    return (daemon.resource(name) or {}).get("status", {}).get("url")


def start(daemon, *configs):
    daemon.add("iris", IRIS)
    for config in configs:
        daemon.write("config.yaml", config)
    daemon.start()
    daemon.wait_ready("iris")


def kserved(daemon, *arguments):
    command = [BINARY, *arguments, "--server", f"http://{daemon.http}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout


def test_hosts_of_status_and_doors_follow_the_ingress(daemon):
    start(daemon)
    body = body_of(daemon)
    assert url(daemon, "iris") == "http://iris.default.example.com"
    ingress = {"ingressDomain": "here.test", "additionalIngressDomains": ["there.test"], "urlScheme": "https"}
    daemon.write("config.yaml", config_map(ingress=ingress))
    daemon.wait_for(lambda: url(daemon, "iris") == "https://iris.default.here.test", 10, "tells the new host")
    for host in ["iris.default.here.test", "iris-default.there.test", "iris.default.svc.cluster.local"]:
        assert ask(daemon, host=host, body=body)[0] == 200, host
    assert ask(daemon, host="iris.default.example.com", body=body)[0] in (403, 404)
    assert ask(daemon, path="/serving/default/iris/v2/models/iris/infer", body=body)[0] == 200
    daemon.write("config.yaml", config_map(ingress={**ingress, "pathTemplate": "/m/{{ .Namespace }}/{{ .Name }}"}))
    daemon.wait_for(lambda: ask(daemon, path="/m/default/iris/v2/models/iris/infer", body=body)[0] == 200, 10, "answers below the path")
    assert ask(daemon, path="/serving/default/iris/v2/models/iris/infer", body=body)[0] == 404
    (daemon.models / "config.yaml").unlink()
    daemon.wait_for(lambda: url(daemon, "iris") == "http://iris.default.example.com", 10, "is as before")
    assert ask(daemon, host="iris.default.example.com", body=body)[0] == 200
    revision = daemon.resource("iris")["status"]["components"]["predictor"]["latestReadyRevision"]
    assert revision.endswith("00001"), "nothing was loaded anew"


def test_the_deployment_mode_is_that_of_new_services_and_a_template_makes_their_hosts(daemon):
    template = "{{ .Name }}.of.{{ .Namespace }}.{{ .IngressDomain }}"
    text = config_map(deploy={"defaultDeploymentMode": "RawDeployment"}, ingress={"ingressDomain": "a.test", "domainTemplate": template})
    start(daemon, text)
    assert daemon.resource("iris")["status"]["deploymentMode"] == "Standard"
    assert url(daemon, "iris") == "http://iris.of.default.a.test"
    body = body_of(daemon)
    for host in ["iris.of.default.a.test", "iris-predictor.of.default.a.test"]:
        assert ask(daemon, host=host, body=body)[0] == 200, host
    daemon.write("config.yaml", config_map(deploy={"defaultDeploymentMode": "Serverless"}))
    daemon.wait_for(lambda: url(daemon, "iris") == "http://iris-default.example.com", 10, "has the usual host again")
    assert daemon.resource("iris")["status"]["deploymentMode"] == "Standard", "one that is there keeps its mode"
    daemon.add("rose", IRIS)
    daemon.wait_ready("rose")
    assert daemon.resource("rose")["status"]["deploymentMode"] == "Knative"


def test_loggers_get_the_default_url(daemon):
    sink = Sink()
    start(daemon)
    text = service("iris", "iris/model.onnx").replace("  predictor:\n", "  predictor:\n    logger: {mode: request}\n")
    daemon.write("iris.yaml", text)
    daemon.wait_for(lambda: "defaultUrl" in ((daemon.condition("iris", "NotYetServed") or {}).get("message") or ""), 10, "says so")
    daemon.write("config.yaml", config_map(namespace="default", logger={"defaultUrl": sink.url}))
    daemon.wait_for(lambda: daemon.condition("iris", "NotYetServed") is None, 10, "has a sink")
    body = body_of(daemon)
    assert ask(daemon, body=body)[0] == 200
    daemon.wait_for(lambda: body in [event.data for _, event in sink.events], 10, "delivers")


def test_a_broken_config_map_leaves_what_was_set_and_says_where(daemon):
    start(daemon, config_map(ingress={"ingressDomain": "a.test", "ingresDomain": "b.test"}))
    log = daemon.log.read_text()
    assert "config.yaml:10:7: data.ingress.ingresDomain: unknown field" in log, log
    daemon.write("config.yaml", config_map(ingress={"ingressDomain": "b.test"}).replace('"b.test"', "b.test"))
    daemon.wait_for(lambda: "not JSON" in daemon.log.read_text(), 10, "says so")
    assert url(daemon, "iris") == "http://iris.default.a.test"


def test_secrets_are_kept_and_only_their_keys_shown(daemon):
    daemon.write("secret.yaml", SECRET)
    start(daemon)
    listed = kserved(daemon, "get", "secrets")
    assert "AWS_ACCESS_KEY_ID" in listed and "AWS_SECRET_ACCESS_KEY" in listed and "Opaque" in listed
    shown = [listed, kserved(daemon, "get", "secret", "opener", "-o", "yaml"), kserved(daemon, "describe", "secret", "opener")]
    shown += [kserved(daemon, "get", "events", "-A"), daemon.client.get("/api/v1/secrets").body.decode()]
    daemon.write("secret.yaml", SECRET.replace("c2VzYW1l", "not!sesame").replace("open-sesame", "{a: other-sesame}"))
    daemon.wait_for(lambda: "stringData.AWS_SECRET_ACCESS_KEY" in daemon.log.read_text(), 10, "complains")
    shown += [daemon.log.read_text(), kserved(daemon, "get", "events", "-A")]
    for text in shown:
        assert "sesame" not in text and "c2VzYW1l" not in text, text
    assert "opener" in kserved(daemon, "get", "serviceaccounts")
    names = [resource["name"] for resource in daemon.client.get("/api/v1").json()["resources"]]
    assert names == ["events", "configmaps", "secrets", "serviceaccounts"]


GRAPH = """apiVersion: serving.kserve.io/v1alpha1
kind: InferenceGraph
metadata: {{name: there}}
spec: {{nodes: {{root: {{routerType: Sequence, steps: [{{serviceUrl: '{url}'}}]}}}}}}
"""


class Away(http.server.BaseHTTPRequestHandler):
    """A step elsewhere, which answers with the headers that it was sent."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        answer = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def test_graphs_follow_the_domain_and_the_headers_that_go_along(daemon):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Away)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    daemon.write("graph.yaml", GRAPH.format(url=f"http://127.0.0.1:{server.server_port}/"))
    start(daemon)
    graph = lambda: json.loads(kserved(daemon, "get", "ig", "there", "-o", "json"))
    sent = lambda host: json.loads(ask(daemon, "/", b"{}", host, X_Request_Id="42", X_Other="1")[1])
    assert "x-request-id" not in sent("there.default.example.com")
    daemon.write("config.yaml", config_map(ingress={"ingressDomain": "here.test"}, router={"headers": {"propagate": ["^X-Request"]}}))
    daemon.wait_for(lambda: graph()["status"]["url"] == "http://there.default.here.test", 10, "tells the graph's new host")
    headers = sent("there.default.here.test")
    assert headers["x-request-id"] == "42" and "x-other" not in headers
    (daemon.models / "config.yaml").unlink()
    daemon.wait_for(lambda: graph()["status"]["url"] == "http://there.default.example.com", 10, "is as before")
    assert "x-request-id" not in sent("there.default.example.com")
    server.shutdown()
