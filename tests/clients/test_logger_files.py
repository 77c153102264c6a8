"""The request logger's files: in folders and buckets, read back by others' readers, and marshallers of the user's own."""

import base64
import contextlib
import csv
import hashlib
import http.server
import json
import pathlib
import sys
import threading
import urllib.request

import pytest
from test_logger import HASTY, IRIS, REQUEST, RESPONSE, ask, body_of, logged, metric, start

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "stores"))
import servers  # noqa: E402


def rows(file):
    """Records of a file by the names of their columns, read by others' readers."""
    if file.suffix == ".csv":
        return list(csv.DictReader(file.open()))
    if file.suffix == ".parquet":
        return servers.fill("parquet", "", file)
    found = json.loads(file.read_text())
    # KServe's own JSON has Go's field names, and no array around one record alone.
    return [{name[0].lower() + name[1:]: value for name, value in record.items()} for record in (found if isinstance(found, list) else [found])]


@pytest.mark.parametrize("form", ["json", "csv", "parquet"])
def test_records_are_written_to_a_folder(daemon, form, tmp_path):
    more = f"      batchSize: 2\n      storage: {{path: daily, parameters: {{format: {form}}}, key: none}}\n"
    start(daemon, logged(f"file://{tmp_path}/logs", more=more))
    body = body_of(daemon)
    status, answer = ask(daemon, body=body, ce_id="../../one")
    assert status == 200
    folder = tmp_path / "logs" / "default" / "iris" / "predictor" / "daily"
    file = daemon.wait_for(lambda: next(folder.glob(f"*one-request.{form}"), None), 10, "writes the batch")
    records = rows(file)
    assert [record["reqType"] for record in records] == [REQUEST, RESPONSE]
    assert [base64.b64decode(record["bytes"]) for record in records] == [body, answer]
    assert {record["id"] for record in records} == {"../../one"} and file.parent == folder
    ask(daemon, path="/v2/models/iris/ready", ce_id="last")
    assert daemon.stop() == 0
    assert sorted(path.suffix for path in folder.iterdir()) == [f".{form}"] * len(list(folder.iterdir())), "nothing half-written"


def test_what_cannot_be_written_to_is_told_and_the_model_is_served(daemon):
    start(daemon, logged("ftp://logs/iris"))
    assert ask(daemon, body=body_of(daemon))[0] == 200
    condition = daemon.condition("iris", "NotYetServed")
    assert "iris.yaml:" in condition["message"] and "not to `ftp://`" in condition["message"]


@contextlib.contextmanager
def puts_as_signed(store):
    """Before fake-gcs-server, which takes an object by a plain PUT only where the address is signed, and tells no tag."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            request = urllib.request.Request(f"{store}{self.path}?X-Goog-Algorithm=GOOG4", body, headers, method="PUT")
            with urllib.request.urlopen(request, timeout=30) as answer:
                self.send_response(answer.status)
            self.send_header("ETag", f'"{hashlib.md5(body).hexdigest()}"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with serving(Handler) as address:
        yield address


@contextlib.contextmanager
def serving(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


class Bucket:
    """A store, what opens it for the logger, and its own client to read it back."""

    def __init__(self, store, tmp_path):
        self.store, self.model, self.into = store, tmp_path / "model", tmp_path / "read"
        self.model.mkdir()
        (self.model / "model.onnx").write_bytes(IRIS.read_bytes())
        self.secret, self.start, self.client = {}, {}, {}
        self.running = {"s3": servers.moto, "gcs": servers.gcs, "azure": servers.azurite}[store](tmp_path / store)

    def __enter__(self):
        self.address = self.running.__enter__()
        account = {"AZURE_ACCOUNT": servers.AZURE_ACCOUNT, "AZURE_KEY": servers.AZURE_KEY}
        key = servers.fill(self.store, self.address, self.model, **(account if self.store == "azure" else {}))
        if self.store == "s3":
            self.url = "s3://models/logs/a"
            self.secret = {"AWS_ACCESS_KEY_ID": key["id"], "AWS_SECRET_ACCESS_KEY": key["secret"], "S3_ENDPOINT": self.address}
            self.client = {"AWS_ACCESS_KEY_ID": key["id"], "AWS_SECRET_ACCESS_KEY": key["secret"]}
        elif self.store == "gcs":
            self.puts = puts_as_signed(self.address)
            self.url, self.start = "gs://models/logs/a", {"STORAGE_EMULATOR_HOST": self.puts.__enter__()}
        else:
            self.url = f"abfs://models@{servers.AZURE_ACCOUNT}.dfs.core.windows.net/logs/a"
            self.secret = {"AZURE_STORAGE_ACCESS_KEY": servers.AZURE_KEY}
            self.start, self.client = {"AZURE_STORAGE_ENDPOINT": f"{self.address}/{servers.AZURE_ACCOUNT}"}, account
        return self

    def __exit__(self, *error):
        return self.running.__exit__(*error)

    def read(self):
        servers.fill(f"read-{self.store}", self.address, self.into, **self.client)
        return {path.relative_to(self.into).as_posix(): path for path in self.into.rglob("*") if path.is_file()}


@pytest.mark.parametrize("store", ["s3", "gcs", "azure"])
def test_records_are_written_to_a_bucket_that_the_loggers_own_account_opens(daemon, tmp_path, store):
    with Bucket(store, tmp_path) as bucket:
        found = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "logs"}, "stringData": bucket.secret}
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "logger-sa"}, "secrets": [{"name": "logs"}]}
        daemon.write("account.yaml", json.dumps(found) + "\n---\n" + json.dumps(account) + "\n")
        daemon.add("iris", IRIS)
        more = "      storage: {path: daily, parameters: {format: parquet}, key: credentials}\n"
        daemon.write("iris.yaml", logged(bucket.url, more=more))
        daemon.start(config=HASTY, environment=bucket.start)
        daemon.wait_ready("iris")
        body = body_of(daemon)
        status, answer = ask(daemon, body=body, ce_id="one")
        assert status == 200
        daemon.wait_for(lambda: metric(daemon, "kserved_logger_delivered_total") >= 4, 30, "delivers")
        files = bucket.read()
        folder = "logs/a/default/iris/predictor/daily"
        for name, kind, content in [("one-request", REQUEST, body), ("one-response", RESPONSE, answer)]:
            (record,) = rows(files[f"{folder}/{name}.parquet"])
            assert (record["id"], record["reqType"], record["url"], record["tlsSkipVerify"]) == ("one", kind, bucket.url, False)
            assert base64.b64decode(record["bytes"]) == content
        assert not [value for value in bucket.secret.values() if len(value) > 20 and value in daemon.log.read_text() and "://" not in value]


def test_a_bucket_that_does_not_open_is_told_once_and_the_model_is_served(daemon, tmp_path):
    with Bucket("s3", tmp_path) as bucket:
        wrong = bucket.secret | {"AWS_SECRET_ACCESS_KEY": "sesame"}
        found = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "logs"}, "stringData": wrong}
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}, "secrets": [{"name": "logs"}]}
        daemon.write("account.yaml", json.dumps(found) + "\n---\n" + json.dumps(account) + "\n")
        start(daemon, logged(bucket.url))
        assert ask(daemon, body=body_of(daemon))[0] == 200
        daemon.wait_for(lambda: metric(daemon, "kserved_logger_dropped_total", reason="undelivered") >= 4, 30, "gives up")
        log = daemon.log.read_text()
        assert log.count("the request log cannot be delivered") == 1 and "SignatureDoesNotMatch" in log and "sesame" not in log
        found["stringData"] = bucket.secret
        daemon.write("account.yaml", json.dumps(found) + "\n---\n" + json.dumps(account) + "\n")
        # A secret that is mended opens the bucket at once.
        daemon.wait_for(lambda: ask(daemon, body=body_of(daemon))[0] == 200 and metric(daemon, "kserved_logger_delivered_total") >= 1, 30, "delivers")


@contextlib.contextmanager
def marshaller():
    """A server that writes the ids of a batch, a line each; its address, and the batches that it was sent."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            batch = json.loads(self.rfile.read(int(self.headers["content-length"])))
            seen.append(batch)
            self.send_response(200)
            self.send_header("X-Log-Marshal-Extension", "txt")
            self.end_headers()
            self.wfile.write("\n".join(record["Id"] for record in batch).encode())

        def log_message(self, *_):
            pass

    with serving(Handler) as address:
        yield f"{address}/marshal", seen


def test_a_marshaller_of_ones_own_writes_the_files(daemon, tmp_path):
    """The same records as KServe's own marshallers read, and whatever they answer as the file."""
    with marshaller() as (url, seen):
        more = f"      marshallerUrl: {url}\n      batchSize: 2\n"
        start(daemon, logged(f"file://{tmp_path}/logs", more=more))
        assert ask(daemon, body=body_of(daemon), ce_id="one")[0] == 200
        folder = tmp_path / "logs" / "default" / "iris" / "predictor"
        file = daemon.wait_for(lambda: next(folder.glob("one-request.txt"), None), 10, "writes the file")
        assert file.read_text() == "one\none"
        batch = next(batch for batch in seen if batch[0]["Id"] == "one")
        assert [record["ReqType"] for record in batch] == [REQUEST, RESPONSE] and batch[0]["Url"]["Scheme"] == "file"
