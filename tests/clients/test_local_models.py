"""LocalModelCache and its kin from files to what `kserved get` says, with models from a web server that counts."""

import http.server
import subprocess
import threading

import pytest
from daemon import FIXTURES, Daemon, service

MODEL = (FIXTURES / "identity_fp32.onnx").read_bytes()


class Shelf(http.server.BaseHTTPRequestHandler):
    asked = []
    broken = False

    def do_GET(self):
        self.asked.append(self.path)
        if Shelf.broken or not self.path.startswith("/model"):
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("content-type", "application/octet-stream")
        self.send_header("content-length", str(len(MODEL)))
        self.end_headers()
        self.wfile.write(MODEL)

    def log_message(self, *_):
        pass


@pytest.fixture
def shelf():
    Shelf.asked, Shelf.broken = [], False
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shelf)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture
def daemon(tmp_path):
    running = Daemon(tmp_path)
    yield running
    running.stop()


def group(name="edge", limit="1Gi"):
    return f"""apiVersion: serving.kserve.io/v1alpha1
kind: LocalModelNodeGroup
metadata: {{name: {name}}}
spec: {{storageLimit: {limit}, persistentVolumeSpec: {{}}, persistentVolumeClaimSpec: {{}}}}
"""


def cache(name, uri, size="1Mi", kind="LocalModelCache", more=""):
    return f"""apiVersion: serving.kserve.io/v1alpha1
kind: {kind}
metadata: {{name: {name}{more}}}
spec: {{sourceModelUri: "{uri}", modelSize: {size}, nodeGroups: [edge]}}
"""


def resource(daemon, plural, name, namespace=None):
    middle = f"namespaces/{namespace}/" if namespace else ""
    answer = daemon.client.get(f"/apis/serving.kserve.io/v1alpha1/{middle}{plural}/{name}")
    return answer.json() if answer.status == 200 else {}


def node_status(daemon, name, plural="localmodelcaches", namespace=None):
    return list(resource(daemon, plural, name, namespace).get("status", {}).get("nodeStatus", {}).values())


def got(daemon, *arguments):
    command = [daemon.binary, *arguments, "--server", f"http://{daemon.http}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def test_a_cache_is_fetched_before_anybody_asks_and_its_service_asks_for_nothing_more(daemon, shelf):
    daemon.write("edge.yaml", group())
    daemon.write("flowers.yaml", cache("flowers", f"{shelf}/model.onnx"))
    daemon.start(config="local_models: {node_name: box}\n")
    daemon.wait_for(lambda: node_status(daemon, "flowers") == ["NodeDownloaded"], 30, "fetches the model")
    assert Shelf.asked == ["/model.onnx"]
    daemon.write("iris.yaml", service("iris", f"{shelf}/model.onnx"))
    daemon.wait_ready("iris")
    assert Shelf.asked == ["/model.onnx"]
    labels = daemon.resource("iris")["metadata"]["labels"]
    assert labels["internal.serving.kserve.io/localmodel"] == "flowers"
    daemon.wait_for(lambda: resource(daemon, "localmodelcaches", "flowers")["status"].get("inferenceServices"), 30, "names its service")
    row = got(daemon, "get", "lmc").splitlines()
    assert row[0].split() == ["NAME", "STATUS", "AVAILABLE", "TOTAL", "SIZE", "NODEGROUPS", "AGE"]
    assert row[1].split()[:6] == ["flowers", "NodeDownloaded", "1", "1", "1Mi", "edge"]
    assert got(daemon, "get", "lmng").splitlines()[1].split()[:3] == ["edge", "1Gi", str(len(MODEL))]
    assert got(daemon, "get", "lmn").splitlines()[1].split()[:3] == ["box", "1", "1"]
    assert "NodeDownloaded" in got(daemon, "get", "lmc", "flowers", "-o", "yaml")
    assert "Ready" in got(daemon, "describe", "lmc", "flowers")


def test_it_is_there_after_a_restart_without_a_network(daemon, shelf):
    daemon.write("edge.yaml", group())
    daemon.write("flowers.yaml", cache("flowers", f"{shelf}/model.onnx"))
    daemon.start()
    daemon.wait_for(lambda: node_status(daemon, "flowers") == ["NodeDownloaded"], 30, "fetches the model")
    daemon.stop()
    Shelf.broken = True
    daemon.start()
    daemon.wait_for(lambda: node_status(daemon, "flowers") == ["NodeDownloaded"], 30, "still has the model")


def test_a_download_that_failed_is_tried_again(daemon, shelf):
    Shelf.broken = True
    daemon.write("edge.yaml", group())
    daemon.write("flowers.yaml", cache("flowers", f"{shelf}/model.onnx"))
    daemon.start(config="storage: {download: {attempts_max: 1}}\n")
    daemon.wait_for(lambda: node_status(daemon, "flowers") == ["NodeDownloadError"], 30, "tells the failure")
    condition = resource(daemon, "localmodelcaches", "flowers")["status"]["conditions"][0]
    assert condition["reason"] == "DownloadFailed" and "503" in condition["message"]
    Shelf.broken = False
    daemon.wait_for(lambda: node_status(daemon, "flowers") == ["NodeDownloaded"], 90, "tries again")


def test_a_model_larger_than_its_size_is_refused_while_it_is_fetched(daemon, shelf):
    daemon.write("edge.yaml", group())
    daemon.write("flowers.yaml", cache("flowers", f"{shelf}/model.onnx", size="10"))
    daemon.start()
    daemon.wait_for(lambda: node_status(daemon, "flowers") == ["NodeDownloadError"], 30, "refuses the model")
    condition = resource(daemon, "localmodelcaches", "flowers")["status"]["conditions"][0]
    assert condition["reason"] == "ModelTooLarge" and "modelSize" in condition["message"]


def test_a_cache_of_a_namespace_is_for_its_services_alone(daemon, shelf):
    daemon.write("edge.yaml", group())
    of_team = {"kind": "LocalModelNamespaceCache", "more": ", namespace: team"}
    daemon.write("flowers.yaml", cache("flowers", f"{shelf}/model.onnx", **of_team))
    daemon.write("iris.yaml", service("iris", f"{shelf}/model.onnx", namespace="team"))
    daemon.write("other.yaml", service("other", f"{shelf}/model.onnx"))
    daemon.start()
    daemon.wait_ready("iris", namespace="team")
    daemon.wait_ready("other")
    daemon.wait_for(lambda: node_status(daemon, "flowers", "localmodelnamespacecaches", "team") == ["NodeDownloaded"], 30, "fetches the model")
    labels = daemon.resource("iris", "team")["metadata"]["labels"]
    assert labels["internal.serving.kserve.io/localmodel-namespace"] == "team"
    assert "internal.serving.kserve.io/localmodel" not in daemon.resource("other")["metadata"].get("labels", {})


def test_validate_says_what_kserve_would(daemon):
    wrong = cache("a", "s3://b/m") + "---\n" + cache("b", "s3://b/m") + "---\n" + cache("c", "s3://b/c").replace("nodeGroups: [edge]", "nodeGroups: []")
    (daemon.folder / "wrong.yaml").write_text(wrong)
    told = subprocess.run([daemon.binary, "validate", daemon.folder / "wrong.yaml"], capture_output=True, text=True, timeout=30)
    assert told.returncode == 1
    assert "wrong.yaml:9:24: error: spec.sourceModelUri: LocalModelCache a has the same StorageURI s3://b/m" in told.stdout
    assert "spec.nodeGroups: Invalid value: 0: spec.nodeGroups in body should have at least 1 items" in told.stdout
    daemon.start(ready_within_s=0)
