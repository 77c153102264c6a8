"""LocalModelCache and its kin from files to what `kserved get` says, with models from a web server that counts."""

import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading

import pytest
from daemon import FIXTURES, Daemon, service

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "stores"))
import servers  # noqa: E402

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


def cache_command(daemon, *arguments):
    """`kserved cache` on the daemon's own cache folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KSERVED_")}
    environment |= {"KSERVED_STORAGE_CACHE": str(daemon.folder / "cache")}
    words = [daemon.binary, "cache", *arguments]
    return subprocess.run(words, env=environment, cwd=daemon.folder, capture_output=True, text=True, check=True, timeout=30).stdout


def pins(daemon):
    models = json.loads(cache_command(daemon, "list", "-o", "json"))["models"]
    return [pin for model in models for pin in model["pins"]]


def test_a_local_model_outlives_the_daemon_and_a_prune_and_goes_when_its_resource_does(daemon, shelf):
    daemon.write("edge.yaml", group())
    daemon.write("flowers.yaml", cache("flowers", f"{shelf}/model.onnx"))
    daemon.start()
    daemon.wait_for(lambda: node_status(daemon, "flowers") == ["NodeDownloaded"], 30, "fetches the model")
    daemon.stop()
    cache_command(daemon, "prune", "--all")
    assert pins(daemon) == [f"LocalModelCache/flowers of {daemon.models}"]
    Shelf.broken = True
    daemon.write("iris.yaml", service("iris", f"{shelf}/model.onnx"))
    daemon.start(config="storage: {offline: true}\n")
    daemon.wait_ready("iris")
    assert Shelf.asked == ["/model.onnx"]
    # The resource goes while the service runs ...
    (daemon.models / "flowers.yaml").unlink()

    def told():
        return (daemon.condition("iris", "LocalModelDeleted") or {}).get("message", "")

    daemon.wait_for(lambda: "LocalModelCache/flowers was deleted while this service uses its model" in told(), 30, "tells the service")
    daemon.wait_for(lambda: pins(daemon) == [], 30, "takes the pin away")
    assert daemon.is_ready("iris"), "and it goes on serving"
    daemon.stop()
    assert "removed" in cache_command(daemon, "prune", "--all")


def test_a_resource_that_is_removed_while_no_daemon_runs_lets_its_model_go_at_the_next_start(daemon, shelf):
    daemon.write("edge.yaml", group())
    daemon.write("flowers.yaml", cache("flowers", f"{shelf}/model.onnx"))
    daemon.start()
    daemon.wait_for(lambda: node_status(daemon, "flowers") == ["NodeDownloaded"], 30, "fetches the model")
    daemon.stop()
    (daemon.models / "flowers.yaml").unlink()
    daemon.write("broken.yaml", "kind: [")
    daemon.start()
    assert pins(daemon) == [f"LocalModelCache/flowers of {daemon.models}"], "nobody knows what a broken file held"
    daemon.stop()
    (daemon.models / "broken.yaml").unlink()
    daemon.start()
    daemon.wait_for(lambda: pins(daemon) == [], 30, "takes the pin away")


def account(namespace, name, secret, **values):
    """A service account with one Secret."""
    metadata = {"name": secret, "namespace": namespace}
    found = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}, "secrets": [{"name": secret}]}
    return json.dumps(found) + "\n---\n" + json.dumps(account) + "\n"


def test_a_caches_own_account_opens_its_store_and_its_services_need_none(daemon):
    def answer(request):
        request.send(*((200, MODEL, "application/octet-stream") if request.headers.get("X-Key") == "sesame" else (403,)))

    with servers.Double(answer) as web:
        uri = f"{web.address}/model.onnx"
        daemon.write("edge.yaml", group())
        daemon.write("flowers.yaml", cache("flowers", uri).replace("nodeGroups:", "serviceAccountName: models, nodeGroups:"))
        daemon.write("iris.yaml", service("iris", uri))
        daemon.start()
        daemon.wait_for(lambda: node_status(daemon, "flowers") == ["NodeDownloadError"], 30, "has no credentials yet")
        values = {"https-host": "127.0.0.1", "headers": json.dumps({"X-Key": "sesame"})}
        # Those of the cluster have theirs where KServe runs its download jobs.
        daemon.write("secret.yaml", account("kserve-localmodel-jobs", "models", "web", **values))
        daemon.wait_for(lambda: node_status(daemon, "flowers") == ["NodeDownloaded"], 60, "is let in")
        daemon.wait_ready("iris", within_s=60)
        assert "sesame" not in daemon.log.read_text()
    daemon.stop()
    daemon.start()
    daemon.wait_ready("iris")


def test_a_caches_entry_of_the_storage_secret_opens_its_bucket(daemon, tmp_path):
    (tmp_path / "bucket" / "iris").mkdir(parents=True)
    (tmp_path / "bucket" / "iris" / "model.onnx").write_bytes(MODEL)
    with servers.moto(tmp_path / "moto") as address:
        key = servers.fill("s3", address, tmp_path / "bucket")
        entry = {"type": "s3", "bucket": "models", "endpoint_url": address, "region": "us-east-1"}
        entry |= {"access_key_id": key["id"], "secret_access_key": key["secret"]}
        stored = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "storage-config", "namespace": "team"}, "stringData": {"minio": json.dumps(entry)}}
        daemon.write("secret.yaml", json.dumps(stored))
        daemon.write("edge.yaml", group())
        of_team = {"kind": "LocalModelNamespaceCache", "more": ", namespace: team"}
        text = cache("flowers", "s3://models/team/iris", **of_team)
        daemon.write("flowers.yaml", text.replace("nodeGroups:", "storage: {key: minio}, nodeGroups:"))
        daemon.write("iris.yaml", service("iris", "s3://models/team/iris/model.onnx", namespace="team"))
        daemon.start()
        daemon.wait_for(lambda: node_status(daemon, "flowers", "localmodelnamespacecaches", "team") == ["NodeDownloaded"], 30, "fetches the model")
        daemon.wait_ready("iris", namespace="team")
        assert key["secret"] not in daemon.log.read_text()
    daemon.stop()
    daemon.start()
    daemon.wait_ready("iris", namespace="team")


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
