"""Models from every kind of store, end to end, and again without any network; what a user is told when it goes wrong."""

import base64
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import sys
import time

import numpy as np
import pytest
from daemon import ROOT, service

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "stores"))
import servers  # noqa: E402

IRIS = (ROOT / "models" / "iris" / "model.onnx").read_bytes()
FLOWER = {"measurements": np.array([[5.1, 3.5, 1.4, 0.2]], np.float32)}
FILES = {"model.onnx": IRIS, "notes/read me.txt": b"a model of flowers", "config.json": b"{}"}
DIGESTS = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
NO_RETRIES = "storage: {download: {attempts_max: 2, retry_first_ms: 10}, http: {connect_timeout_s: 2}}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The model as a folder."""
    root = tmp_path_factory.mktemp("model")
    for name, content in FILES.items():
        target = root / "iris" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return root


def secret(name, **values):
    """A Secret of the default service account; `annotations` are KServe's own."""
    annotations = {f"serving.kserve.io/{key}": value for key, value in values.pop("annotations", {}).items()}
    metadata = {"name": name, "annotations": annotations}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}, "secrets": [{"name": name}]}
    found = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}
    return json.dumps(found) + "\n---\n" + json.dumps(account) + "\n"


def species(daemon, name="iris"):
    return daemon.client.infer("json", name, FLOWER)["species"][0]


def serve(daemon, uri, credentials=None, **start):
    if credentials:
        daemon.write("credentials.yaml", credentials)
    daemon.write("iris.yaml", service("iris", uri))
    daemon.start(**start)
    daemon.wait_ready("iris")
    assert species(daemon) == b"setosa"


def offline(daemon, **start):
    """A start when the store is gone."""
    daemon.stop()
    daemon.start(**start)
    daemon.wait_ready("iris")
    assert species(daemon) == b"setosa"


def kept(daemon):
    """What lies in the cache of the one model, by its digest."""
    folder = next(folder for folder in (daemon.folder / "cache" / "models").iterdir() if (folder / "files").is_dir()) / "files"
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def failure(daemon, name="iris"):
    status = (daemon.resource(name) or {}).get("status", {})
    return (status.get("modelStatus", {}).get("lastFailureInfo") or {}).get("message")


def told(daemon, uri, credentials=None, **start):
    """What the status says of a model that cannot be had."""
    if credentials:
        daemon.write("credentials.yaml", credentials)
    daemon.write("iris.yaml", service("iris", uri))
    daemon.start(**({"ready_within_s": 0, "config": NO_RETRIES} | start))
    return daemon.wait_for(lambda: failure(daemon), 30, "says what is wrong")


def test_s3(daemon, folder, tmp_path):
    with servers.moto(tmp_path / "moto") as address:
        key = servers.fill("s3", address, folder)
        at = {"s3-endpoint": address.removeprefix("http://"), "s3-usehttps": "0", "s3-region": "us-east-1"}
        own = secret("s3", AWS_ACCESS_KEY_ID=key["id"], AWS_SECRET_ACCESS_KEY=key["secret"], annotations=at)
        serve(daemon, "s3://models/team/iris", own)
        assert kept(daemon) == DIGESTS
        log = daemon.log.read_text()
        assert key["secret"] not in log and key["secret"] not in json.dumps(daemon.resource("iris"))
    offline(daemon)


def test_s3_on_another_server(daemon, folder, tmp_path):
    with servers.s3s_fs(tmp_path / "s3s", folder) as address:
        at = {"s3-endpoint": address, "s3-region": "us-east-1"}
        message = told(daemon, "s3://models/team/iris", secret("s3", AWS_ACCESS_KEY_ID="second", AWS_SECRET_ACCESS_KEY="wrong", annotations=at))
        assert "SignatureDoesNotMatch" in message, message
        daemon.write("credentials.yaml", secret("s3", AWS_ACCESS_KEY_ID="second", AWS_SECRET_ACCESS_KEY="sesame-and-more", annotations=at))
        daemon.wait_ready("iris")
        assert species(daemon) == b"setosa" and kept(daemon) == DIGESTS
    offline(daemon)


def test_s3_whose_buckets_are_hosts(daemon, folder, tmp_path):
    """The server is its own proxy, so that nobody has to look up `models.localhost`."""
    with servers.s3s_fs(tmp_path / "s3s", folder) as address:
        at = {"s3-endpoint": address.replace("127.0.0.1", "localhost"), "s3-region": "us-east-1", "s3-usevirtualbucket": "true"}
        own = secret("s3", AWS_ACCESS_KEY_ID="second", AWS_SECRET_ACCESS_KEY="sesame-and-more", annotations=at)
        start = {"environment": {"http_proxy": address}}
        serve(daemon, "s3://models/team/iris", own, **start)
        assert kept(daemon) == DIGESTS
        assert "models.localhost:" in (tmp_path / "s3s" / "server.log").read_text()
    offline(daemon, **start)


@pytest.mark.parametrize(
    ("uri", "wrong", "said"),
    [
        ("s3://models/team/iris", {"AWS_SECRET_ACCESS_KEY": "sesame"}, "the secret key does not go with the key's name"),
        ("s3://models/team/iris", {"AWS_ACCESS_KEY_ID": "nobody"}, "the store does not know this access key"),
        ("s3://nowhere/team/iris", {}, "NoSuchBucket"),
        ("s3://models/team/tulip", {}, "Failed to fetch model. No model found in s3://models/team/tulip."),
    ],
)
def test_s3_says_what_is_wrong(daemon, s3_store, uri, wrong, said):
    address, key = s3_store
    at = {"s3-endpoint": address, "s3-region": "us-east-1"}
    values = {"AWS_ACCESS_KEY_ID": key["id"], "AWS_SECRET_ACCESS_KEY": key["secret"]} | wrong
    message = told(daemon, uri, secret("s3", **values, annotations=at))
    assert said in message and key["secret"] not in message and "sesame" not in message


def test_a_secret_that_is_mended_lets_the_model_be_fetched_at_once(daemon, s3_store):
    address, key = s3_store
    at = {"s3-endpoint": address, "s3-region": "us-east-1"}
    told(daemon, "s3://models/team/iris", secret("s3", AWS_ACCESS_KEY_ID=key["id"], AWS_SECRET_ACCESS_KEY="sesame", annotations=at))
    daemon.write("credentials.yaml", secret("s3", AWS_ACCESS_KEY_ID=key["id"], AWS_SECRET_ACCESS_KEY=key["secret"], annotations=at))
    daemon.wait_ready("iris")


def test_the_processs_own_keys_and_the_storage_secret_open_a_bucket(daemon, s3_store):
    address, key = s3_store
    entry = {"type": "s3", "bucket": "models", "endpoint_url": address, "region": "us-east-1"}
    keys = {"access_key_id": key["id"], "secret_access_key": key["secret"]}
    stored = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "storage-config"}, "stringData": {"minio": json.dumps(entry | keys)}}
    daemon.write("credentials.yaml", json.dumps(stored))
    by_entry = service("entry", "x").replace("storageUri: x", "storage: {key: minio, path: team/iris}")
    daemon.write("entry.yaml", by_entry)
    environment = {"AWS_ACCESS_KEY_ID": key["id"], "AWS_SECRET_ACCESS_KEY": key["secret"], "AWS_ENDPOINT_URL": address}
    daemon.write("iris.yaml", service("iris", "s3://models/team/iris/model.onnx"))
    daemon.start(environment=environment)
    daemon.wait_ready("iris")
    daemon.wait_ready("entry")
    assert species(daemon, "entry") == species(daemon) == b"setosa"


@pytest.fixture(scope="module")
def s3_store(tmp_path_factory, folder):
    with servers.moto(tmp_path_factory.mktemp("moto")) as address:
        yield address, servers.fill("s3", address, folder)


def test_google_cloud_storage(daemon, folder, tmp_path):
    with servers.gcs(tmp_path / "gcs") as address:
        servers.fill("gcs", address, folder)
        start = {"environment": {"STORAGE_EMULATOR_HOST": address, "HOME": str(tmp_path)}}
        serve(daemon, "gs://models/team/iris", **start)
        assert kept(daemon) == DIGESTS
    offline(daemon, **start)


def test_azure_blobs(daemon, folder, tmp_path):
    uri = f"https://{servers.AZURE_ACCOUNT}.blob.core.windows.net/models/team/iris"
    with servers.azurite(tmp_path / "azurite") as address:
        servers.fill("azure", address, folder, AZURE_ACCOUNT=servers.AZURE_ACCOUNT, AZURE_KEY=servers.AZURE_KEY)
        start = {"environment": {"AZURE_STORAGE_ENDPOINT": f"{address}/{servers.AZURE_ACCOUNT}"}}
        wrong = servers.AZURE_KEY.replace("Eby8", "Eby9")
        message = told(daemon, uri, secret("azure", AZURE_STORAGE_ACCESS_KEY=wrong), **start)
        assert "AuthorizationFailure" in message and wrong not in message
        daemon.write("credentials.yaml", secret("azure", AZURE_STORAGE_ACCESS_KEY=servers.AZURE_KEY))
        daemon.wait_ready("iris")
        assert species(daemon) == b"setosa" and kept(daemon) == DIGESTS
    offline(daemon, **start)


def test_hugging_face(daemon, tmp_path):
    with servers.files_double(FILES) as elsewhere, servers.hub_double(FILES, "hf_sesame", elsewhere.address.replace("127.0.0.1", "localhost")) as hub:
        # The hub's own client finds the double right.
        assert servers.fill("hub", hub.address, tmp_path / "own", HF_TOKEN="hf_sesame") == DIGESTS
        serve(daemon, "hf://team/iris:v1", secret("hub", HF_TOKEN="hf_sesame", HF_ENDPOINT=hub.address))
        assert kept(daemon) == DIGESTS
        assert elsewhere.asked and not [headers for _, _, headers in elsewhere.asked if "authorization" in headers]
        assert "hf_sesame" not in daemon.log.read_text()
    offline(daemon)


@pytest.mark.parametrize(
    ("uri", "token", "said"),
    [
        ("hf://team/iris", None, "it is private or gated; a Secret with `HF_TOKEN` opens it"),
        ("hf://team/iris", "hf_wrong", "Hugging Face does not know this token"),
        ("hf://team/iris:v9", "hf_sesame", "no revision `v9`"),
        ("hf://team/tulip", "hf_sesame", "no such model"),
        ("hf://iris", "hf_sesame", "Invalid Hugging Face URI format"),
    ],
)
def test_hugging_face_says_what_is_wrong(daemon, uri, token, said):
    with servers.hub_double(FILES, "hf_sesame") as hub:
        environment = {"HF_ENDPOINT": hub.address, "HOME": str(daemon.folder)} | ({"HF_TOKEN": token} if token else {})
        message = told(daemon, uri, environment=environment)
        assert said in message and "hf_" not in message


def test_a_branch_is_looked_at_again_at_a_start_and_fetched_only_if_it_has_a_new_commit(daemon):
    files, start = dict(FILES), {"config": "storage: {recheck_interval_s: 60}\n"}

    def start_an_hour_later():
        seen = len(hub.asked)
        daemon.stop()
        for record in (daemon.folder / "cache" / "models").glob("*/model.json"):
            os.utime(record, (time.time() - 3600,) * 2)
        daemon.start(**start)
        daemon.wait_ready("iris")
        assert species(daemon) == b"setosa"
        return [path for _, path, _ in hub.asked[seen:]]

    def version():
        return daemon.resource("iris")["status"]["modelStatus"]["cached"]["version"]

    with servers.hub_double(files, "hf_sesame") as hub:
        serve(daemon, "hf://team/iris", secret("hub", HF_TOKEN="hf_sesame", HF_ENDPOINT=hub.address), **start)
        first = version()
        asked = start_an_hour_later()
        assert asked and not [path for path in asked if "/resolve/" in path], asked
        assert version() == first
        files["README.md"] = b"a word more"
        assert [path for path in start_an_hour_later() if "/resolve/" in path]
        assert version() != first and kept(daemon)["README.md"] == hashlib.sha256(b"a word more").hexdigest()
        second = version()
    start_an_hour_later()
    assert version() == second, "what is kept is served without the hub"


def check_rechecks(daemon, change, close, **start):
    """A start an hour later asks and fetches nothing; after a change it fetches; without the store it serves what is kept."""
    start["config"] = "storage: {recheck_interval_s: 60, download: {attempts_max: 1}, http: {connect_timeout_s: 2}}\n"

    def start_an_hour_later():
        daemon.stop()
        for record in (daemon.folder / "cache" / "models").glob("*/model.json"):
            os.utime(record, (time.time() - 3600,) * 2)
        daemon.start(**start)
        daemon.wait_ready("iris")
        assert species(daemon) == b"setosa"
        return daemon.resource("iris")["status"]["modelStatus"]["cached"]

    first = start_an_hour_later()
    assert first["version"] and start_an_hour_later() == first, "nothing was fetched"
    change()
    second = start_an_hour_later()
    assert second["version"] != first["version"]
    assert kept(daemon)["config.json"] == hashlib.sha256(b"[1]").hexdigest()
    close()
    assert start_an_hour_later() == second, "what is kept is served without the store"


def test_a_changed_model_of_modelscope_is_fetched_at_a_later_start(daemon):
    files = dict(FILES)
    with servers.modelscope_double(files, "ms_sesame") as hub:
        start = {"environment": {"MODELSCOPE_ENDPOINT": hub.address, "MODELSCOPE_API_TOKEN": "ms_sesame"}}
        serve(daemon, "modelscope://team/iris", **start)
        check_rechecks(daemon, lambda: files.update({"config.json": b"[1]"}), lambda: hub.server.shutdown(), **start)


def changed(folder, tmp_path):
    """The model's folder with another file in it."""
    shutil.copytree(folder, tmp_path / "changed")
    (tmp_path / "changed" / "iris" / "config.json").write_bytes(b"[1]")
    return tmp_path / "changed"


def test_a_changed_bucket_is_fetched_at_a_later_start(daemon, folder, tmp_path):
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(servers.moto(tmp_path / "moto"))
        key = servers.fill("s3", address, folder)
        keys = {"AWS_ACCESS_KEY_ID": key["id"], "AWS_SECRET_ACCESS_KEY": key["secret"]}
        start = {"environment": {**keys, "AWS_ENDPOINT_URL": address}}
        serve(daemon, "s3://models/team/iris", **start)
        check_rechecks(daemon, lambda: servers.fill("s3_put", address, changed(folder, tmp_path), **keys), stack.close, **start)


def test_a_tag_that_names_another_image_is_fetched_at_a_later_start(daemon, folder, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    login = {"REGISTRY_USER": "tester", "REGISTRY_PASSWORD": "sesame", "SCRATCH": str(scratch)}
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(servers.registry(tmp_path / "registry"))
        servers.fill("registry", address, folder / "iris", **login)
        host = address.removeprefix("http://")
        docker = json.dumps({"auths": {host: {"username": "tester", "password": "sesame"}}})
        serve(daemon, f"oci://{host}/team/image:v1", secret("docker", **{".dockerconfigjson": docker}))
        check_rechecks(daemon, lambda: servers.fill("registry", address, changed(folder, tmp_path) / "iris", **login), stack.close)


def test_a_repository_with_a_new_commit_is_fetched_at_a_later_start(daemon, tmp_path):
    cert = servers.certificate(tmp_path / "tls")
    with servers.git_server(tmp_path / "git", FILES, cert) as git:
        trust = {"environment": {"GIT_SSL_CAINFO": str(cert[0])}}
        serve(daemon, f"{git.address}/team/iris.git", secret("git", GIT_USERNAME="tester", GIT_PASSWORD="sesame"), **trust)
        check_rechecks(daemon, lambda: git.change("config.json", b"[1]"), lambda: git.server.shutdown(), **trust)


def crc64nvme(content):
    value = (1 << 64) - 1
    for byte in content:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x9A6C9329AC4BC9B5 if value & 1 else 0)
    return (value ^ (1 << 64) - 1).to_bytes(8, "big")


def test_the_checksum_that_s3_keeps_of_a_whole_object_is_checked(daemon):
    """An object that came in parts has no MD5; its CRC64NVME is told, and once it is wrong."""
    sent = {}

    def answer(request):
        if "list-type" in request.path:
            entry = f'<Contents><Key>iris/model.onnx</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>"a-2"</ETag><Size>{len(IRIS)}</Size></Contents>'
            text = f'<?xml version="1.0"?><ListBucketResult><Name>models</Name><IsTruncated>false</IsTruncated>{entry}</ListBucketResult>'
            return request.send(200, text.encode(), "application/xml")
        assert request.headers["x-amz-checksum-mode"] == "ENABLED"
        headers = {"ETag": '"a-2"', "Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "x_amz_checksum_type": "FULL_OBJECT"}
        request.send(200, IRIS, "application/octet-stream", **headers, x_amz_checksum_crc64nvme=sent["crc"])

    with servers.Double(answer) as store:
        start = {"environment": {"AWS_ENDPOINT_URL": store.address, "awsAnonymousCredential": "true", "HOME": str(daemon.folder)}}
        sent["crc"] = base64.b64encode(bytes(8)).decode()
        assert "they must hash to CRC64NVME `0000000000000000`" in told(daemon, "s3://models/iris", **start)
        assert crc64nvme(b"123456789") == bytes.fromhex("ae8b14860a799888")
        sent["crc"] = base64.b64encode(crc64nvme(IRIS)).decode()
        daemon.wait_ready("iris", within_s=60)


def test_a_store_that_is_real_tells_its_checksums(daemon, folder, tmp_path):
    with servers.moto(tmp_path / "moto") as address:
        key = servers.fill("s3", address, folder)
        keys = {"AWS_ACCESS_KEY_ID": key["id"], "AWS_SECRET_ACCESS_KEY": key["secret"]}
        assert "ChecksumCRC32" in servers.fill("s3_put", address, folder, **keys, CHECKSUM="CRC32")
        serve(daemon, "s3://models/team/iris", environment={**keys, "AWS_ENDPOINT_URL": address})
        assert kept(daemon) == DIGESTS


def test_modelscope(daemon):
    with servers.modelscope_double(FILES, "ms_sesame") as hub:
        start = {"environment": {"MODELSCOPE_ENDPOINT": hub.address}}
        message = told(daemon, "modelscope://team/iris", **start)
        assert "a Secret with `MODELSCOPE_API_TOKEN` opens it" in message
        daemon.write("credentials.yaml", secret("hub", MODELSCOPE_API_TOKEN="ms_sesame"))
        daemon.wait_ready("iris")
        assert species(daemon) == b"setosa" and kept(daemon) == DIGESTS
    offline(daemon, **start)


def test_a_file_share_of_azure(daemon):
    """There is no such server to be had: the double follows the description of the interface."""
    uri = "https://acct.file.core.windows.net/models/iris"
    with servers.file_share_double({f"models/iris/{name}": content for name, content in FILES.items()}, "sv=1&sig=sesame") as share:
        start = {"environment": {"AZURE_STORAGE_FILE_ENDPOINT": share.address}}
        assert "`AZURE_STORAGE_SAS_TOKEN` opens a file share" in told(daemon, uri, **start)
        daemon.write("credentials.yaml", secret("azure", AZURE_STORAGE_SAS_TOKEN="?sv=1&sig=sesame"))
        daemon.wait_ready("iris")
        assert species(daemon) == b"setosa" and kept(daemon) == DIGESTS
        assert "sesame" not in daemon.log.read_text()
    offline(daemon, **start)


def test_a_file_share_of_azure_opens_to_its_accounts_key(daemon):
    """The double compares each signature with the one that Azure's own client gives the request."""
    uri, key = "https://acct.file.core.windows.net/models/iris", base64.b64encode(b"sesame of the account").decode()
    with servers.file_share_double({f"models/iris/{name}": content for name, content in FILES.items()}, key=key) as share:
        start = {"environment": {"AZURE_STORAGE_FILE_ENDPOINT": share.address}}
        wrong = base64.b64encode(b"another").decode()
        assert "the key is not the account's" in told(daemon, uri, secret("azure", AZURE_STORAGE_ACCESS_KEY=wrong), **start)
        daemon.write("credentials.yaml", secret("azure", AZURE_STORAGE_ACCESS_KEY=key))
        daemon.wait_ready("iris", within_s=60)
        assert species(daemon) == b"setosa" and kept(daemon) == DIGESTS
        assert key not in daemon.log.read_text()
    offline(daemon, **start)


def test_patterns_say_which_files_of_a_model_are_fetched(daemon):
    with servers.hub_double(FILES, "hf_sesame") as hub:
        environment = {"HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_sesame", "STORAGE_ALLOW_PATTERNS": '["*.onnx", "*.json"]'}
        serve(daemon, "hf://team/iris", environment=environment | {"STORAGE_IGNORE_PATTERNS": "config.*"})
        assert list(kept(daemon)) == ["model.onnx"]


def test_a_model_in_the_hubs_own_cache_is_served_without_asking(daemon, tmp_path):
    with servers.hub_double(FILES, "hf_sesame") as hub:
        servers.fill("hub", hub.address, tmp_path / "home" / "hub", HF_TOKEN="hf_sesame")
    serve(daemon, "hf://team/iris", environment={"HF_HOME": str(tmp_path / "home")})
    assert not (daemon.folder / "cache" / "models").exists()


@pytest.mark.parametrize("name", ["image", "files", "zstd"])
def test_a_registry(daemon, folder, tmp_path, name):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with servers.registry(tmp_path / "registry") as address:
        login = {"REGISTRY_USER": "tester", "REGISTRY_PASSWORD": "sesame", "SCRATCH": str(scratch)}
        servers.fill("registry", address, folder / "iris", **login)
        host = address.removeprefix("http://")
        message = told(daemon, f"oci://{host}/team/{name}:v1", environment={"HOME": str(tmp_path)})
        assert "401" in message and "`.dockerconfigjson`" in message
        docker = json.dumps({"auths": {host: {"username": "tester", "password": "sesame"}}})
        daemon.write("credentials.yaml", secret("docker", **{".dockerconfigjson": docker}))
        daemon.wait_ready("iris")
        # The client gives files their bare names.
        expected = DIGESTS if name != "files" else {pathlib.PurePath(path).name: digest for path, digest in DIGESTS.items()}
        assert species(daemon) == b"setosa" and kept(daemon) == expected
        daemon.write("gone.yaml", service("gone", f"oci://{host}/team/{name}:v9"))
        assert "no such image or tag" in daemon.wait_for(lambda: failure(daemon, "gone"), 30, "says that there is no such tag")
    offline(daemon)


def test_hdfs(daemon, tmp_path):
    with servers.webhdfs_double(FILES) as hdfs:
        # A client written by others finds the double right.
        found = servers.fill("webhdfs", hdfs.address, tmp_path / "own")
        assert {name.removeprefix("iris/"): digest for name, digest in found.items()} == DIGESTS
        message = told(daemon, "hdfs://iris", secret("hdfs", HDFS_NAMENODE=hdfs.address))
        assert "Failed to obtain user group information" in message and "`USER_PROXY`" in message
        daemon.write("credentials.yaml", secret("hdfs", HDFS_NAMENODE=hdfs.address, USER_PROXY="tester", HDFS_ROOTPATH="/data"))
        daemon.wait_ready("iris")
        assert species(daemon) == b"setosa" and kept(daemon) == DIGESTS
        daemon.write("gone.yaml", service("gone", "hdfs://tulip"))
        assert "File does not exist: /data/tulip" in daemon.wait_for(lambda: failure(daemon, "gone"), 30, "says that there is no such file")
    offline(daemon)


def test_git(daemon, tmp_path):
    cert = servers.certificate(tmp_path / "tls")
    with servers.git_server(tmp_path / "git", FILES, cert) as git:
        uri = f"{git.address}/team/iris.git"
        trust = {"environment": {"GIT_SSL_CAINFO": str(cert[0])}}
        message = told(daemon, uri, **trust)
        assert "a Secret with `GIT_USERNAME` and `GIT_PASSWORD` opens a repository" in message
        daemon.write("credentials.yaml", secret("git", GIT_USERNAME="tester", GIT_PASSWORD="sesame"))
        daemon.wait_ready("iris")
        assert species(daemon) == b"setosa" and kept(daemon) == DIGESTS
        assert "sesame" not in daemon.log.read_text()
        daemon.write("gone.yaml", service("gone", f"{git.address}/team/tulip.git"))
        assert "not found" in daemon.wait_for(lambda: failure(daemon, "gone"), 30, "says that there is no such repository")
    offline(daemon)


def test_a_web_servers_headers_go_to_it_alone(daemon):
    with servers.files_double(FILES) as elsewhere:

        def answer(request):
            if request.headers.get("X-Key") != "sesame":
                return request.send(403)
            return request.send(302, b"", Location=f"{elsewhere.address}/model.onnx")

        with servers.Double(answer) as web:
            headers = json.dumps({"X-Key": "sesame"})
            host = web.address.replace("127.0.0.1", "localhost")
            serve(daemon, f"{host}/model.onnx", secret("web", **{"https-host": "localhost", "headers": headers}))
            assert all("x-key" in sent for _, _, sent in web.asked)
            assert elsewhere.asked and not [sent for _, _, sent in elsewhere.asked if "x-key" in sent]


def test_an_unknown_certificate_is_told_and_can_be_trusted(daemon, tmp_path):
    cert = servers.certificate(tmp_path / "tls")
    def answer(request):
        request.send(403, b"<Error><Code>AccessDenied</Code></Error>", "application/xml")

    with servers.Double(answer, cert) as store:
        at = {"s3-endpoint": store.address, "s3-region": "us-east-1"}
        keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "sesame"}
        message = told(daemon, "s3://models/iris", secret("s3", **keys, annotations=at))
        assert "invalid peer certificate" in message and "name the certificate to trust" in message
        bundle = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca"}, "data": {"cabundle.crt": cert[0].read_text()}}
        daemon.write("ca.yaml", json.dumps(bundle))
        daemon.write("credentials.yaml", secret("s3", **keys, annotations=at | {"s3-cabundle-configmap": "ca"}))
        daemon.wait_for(lambda: "AccessDenied" in (failure(daemon) or ""), 30, "trusts the certificate")


@pytest.mark.parametrize(
    ("uri", "config", "said"),
    [
        ("http://169.254.169.254/latest/model.onnx", "{}", "a cloud's metadata service"),
        ("http://127.0.0.1:9/model.onnx", "{private_hosts: []}", "`storage.private_hosts`"),
        ("http://127.0.0.1:9/model.onnx", "{allowed_hosts: ['*.example.com']}", "`storage.allowed_hosts` is `*.example.com`"),
        ("s3://models/iris", "{allowed_schemes: [hf, file]}", "`storage.allowed_schemes` is `hf`, `file`"),
        ("oci://127.0.0.1:9/iris@sha256:../../etc/passwd", "{}", "an image is written"),
        ("hdfs://iris", "{}", "a Secret with `HDFS_NAMENODE` names it"),
    ],
)
def test_what_is_not_allowed_says_which_setting_forbids_it(daemon, uri, config, said):
    assert said in told(daemon, uri, config=f"storage: {config}\n")


def test_a_server_of_the_internet_cannot_lead_into_this_network(daemon):
    """A redirect to a metadata service is refused, whoever sends it."""

    def answer(request):
        request.send(302, b"", Location="http://169.254.169.254/latest/model.onnx")

    with servers.Double(answer) as web:
        assert "a cloud's metadata service" in told(daemon, f"{web.address}/model.onnx")
