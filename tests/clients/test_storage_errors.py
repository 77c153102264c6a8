"""Every kind of failure of a fetch from a fault to the words in the status, which are those that docs/storage-errors.md tells."""

import contextlib
import io
import json
import pathlib
import re
import sys
import threading
import zipfile

import pytest
from daemon import ROOT, Daemon, free_port, service

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "stores"))
import servers  # noqa: E402

PAGE = ROOT / "docs" / "storage-errors.md"
MODEL = (ROOT / "models" / "iris" / "model.onnx").read_bytes()
PLAIN = "application/octet-stream"
MIB = 1 << 20
SETTINGS = {
    "allowed_schemes": ["file", "http", "s3", "hf"],
    "allowed_hosts": ["127.0.0.1", "127.0.0.2", "169.254.169.254", "models.example.com", "*.invalid"],
    "private_hosts": ["127.0.0.1"],
    "cache_bytes_max": 2 * MIB,
    "download": {"attempts_max": 2, "retry_first_ms": 10, "stall_timeout_s": 1, "model_bytes_max": MIB, "entries_max": 3},
    "http": {"connect_timeout_s": 2},
}


def rows():
    """The page's table: what went wrong, the words of it, and what happens then."""
    found = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("| ") and len(cells) == 3 and cells[0] != "what went wrong":
            words = [(three or two or one).strip() for three, two, one in re.findall(r"``` (.+?) ```|``(.+?)``|`(.+?)`", cells[1])]
            found[cells[0]] = (words, cells[2])
    return found


def zipped(*entries, content=b"a page"):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in entries:
            archive.writestr(entry, content)
    return packed.getvalue()


def link():
    entry = zipfile.ZipInfo("model.onnx")
    entry.create_system, entry.external_attr = 3, 0o120777 << 16
    return entry


class Faults:
    """A web server with a path for each fault."""

    def __init__(self, leads_to):
        self.leads_to, self.tags, self.silent = leads_to, iter(range(1_000_000)), threading.Event()

    def __call__(self, request):
        name = request.path.strip("/").split("/")[0].replace(".", "_").replace("-", "_")
        return getattr(self, name, lambda request: request.send(404))(request)

    def denied(self, request):
        request.send(403)

    def busy(self, request):
        request.send(429, **{"Retry-After": "0"})

    def broken(self, request):
        request.send(503)

    def circle(self, request):
        request.send(302, b"", Location=request.path)

    def metadata(self, request):
        request.send(302, b"", Location="http://169.254.169.254/latest/model.onnx")

    def good(self, request):
        request.send(200, MODEL, PLAIN, ETag='"1"')

    def page(self, request):
        request.send(200, b"<html>", "text/html")

    def half(self, request, length=1000, sent=b"0" * 500, **headers):
        request.send_response(200)
        for key, value in {"Content-Type": PLAIN, "Content-Length": str(length), **headers}.items():
            request.send_header(key, value)
        request.end_headers()
        request.wfile.write(sent)
        request.wfile.flush()
        request.close_connection = True

    def cut(self, request):
        # Without a version there is nothing to go on from.
        self.half(request)

    def stall(self, request):
        self.half(request, sent=b"0")
        self.silent.wait(20)

    def changes(self, request):
        self.half(request, ETag=f'"{next(self.tags)}"')

    def otherpart(self, request):
        if "Range" not in request.headers:
            return self.half(request, ETag='"1"')
        request.send(206, b"0" * 100, PLAIN, Content_Range="bytes 7-106/1000", ETag='"1"')

    def endless(self, request):
        request.protocol_version = "HTTP/1.0"
        request.send_response(200)
        request.send_header("Content-Type", PLAIN)
        request.end_headers()
        request.wfile.write(b"0")
        request.close_connection = True

    def noarchive(self, request):
        request.send(200, b"<html>" * 100, "application/zip", ETag='"1"')

    def slips(self, request):
        request.send(200, zipped("../../evil.onnx"), "application/zip", ETag='"1"')

    def links(self, request):
        request.send(200, zipped(link()), "application/zip", ETag='"1"')

    def bomb(self, request):
        request.send(200, zipped("model.onnx", content=bytes(4 * MIB)), "application/zip", ETag='"1"')

    def nomodel(self, request):
        request.send(200, zipped("README.txt"), "application/zip", ETag='"1"')

    def code(self, request):
        request.send(200, zipped("model.pkl"), "application/zip", ETag='"1"')

    def large(self, request):
        self.half(request, length=2 * MIB)

    def huge(self, request):
        self.half(request, length=1 << 50)


def bucket(sizes, content=None):
    """S3 without signatures: objects of these sizes below `models`, whose tags are MD5s of something else."""

    def answer(request):
        if "list-type" in request.path:
            entries = "".join(f'<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>"{"0" * 32}"</ETag><Size>{size}</Size></Contents>' for key, size in sizes.items())
            text = f'<?xml version="1.0"?><ListBucketResult><Name>models</Name><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>'
            return request.send(200, text.encode(), "application/xml")
        request.send(200, content or b"", PLAIN, ETag=f'"{"0" * 32}"', Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT")

    return servers.Double(answer)


def at(address, **keys):
    """A Secret of a store at an address, by name."""
    annotations = {"serving.kserve.io/s3-endpoint": address, "serving.kserve.io/s3-region": "us-east-1"}
    if not keys:
        annotations["serving.kserve.io/s3-useanoncredential"] = "true"
        keys = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    return annotations, keys


class House:
    """One daemon with a service for each fault; a second one where the settings must be others."""

    def __init__(self, folder, settings, environment=None):
        self.daemon, self.settings, self.environment, self.names = Daemon(folder), settings, environment or {}, {}

    def ask(self, what, uri, store=None, sha256=None):
        name = f"m{len(self.names):02}"
        self.names[what] = name
        annotations = {"kserved.io/model-sha256": sha256} if sha256 else {}
        if store:
            found, keys = store
            secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "annotations": found}, "stringData": keys}
            self.daemon.write(f"{name}-secret.yaml", json.dumps(secret))
            annotations["serving.kserve.io/storageSecretName"] = name
        text = service(name, json.dumps(uri))
        self.daemon.write(f"{name}.yaml", text.replace(f"  name: {name}\n", f"  name: {name}\n  annotations: {json.dumps(annotations)}\n", 1))

    def messages(self):
        """What each service is told."""
        self.daemon.start(config=json.dumps({"storage": self.settings}), ready_within_s=0, environment=self.environment)

        def message(name):
            status = (self.daemon.resource(name) or {}).get("status", {})
            return (status.get("modelStatus", {}).get("lastFailureInfo") or {}).get("message")

        return {what: self.daemon.wait_for(lambda name=name: message(name), 60, f"tells of {what}") for what, name in self.names.items()}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What a service is told of every fault."""
    folder = tmp_path_factory.mktemp("errors")
    (folder / "model" / "iris").mkdir(parents=True)
    (folder / "model" / "iris" / "model.onnx").write_bytes(MODEL)
    with contextlib.ExitStack() as stack:
        inner = stack.enter_context(servers.Double(lambda request: request.send(200, MODEL, PLAIN)))
        faults = Faults(inner)
        web = stack.enter_context(servers.Double(faults))
        # Stands for a server of the internet: the daemon reaches it through a proxy, and it leads into this network.
        proxy = stack.enter_context(servers.Double(lambda request: request.send(302, b"", Location=f"http://127.0.0.2:{inner.port}/model.onnx")))
        unknown = stack.enter_context(servers.Double(lambda request: request.send(403), servers.certificate(folder / "tls")))
        hub = stack.enter_context(servers.hub_double({"model.onnx": MODEL}, "hf_sesame"))
        s3 = stack.enter_context(servers.moto(folder / "moto"))
        key = servers.fill("s3", s3, folder / "model")
        keys = {"AWS_ACCESS_KEY_ID": key["id"], "AWS_SECRET_ACCESS_KEY": key["secret"]}
        damaged = stack.enter_context(bucket({"iris/model.onnx": len(MODEL)}, MODEL))
        full = stack.enter_context(bucket({"iris/model.onnx": 3 * MIB}))
        many = stack.enter_context(bucket({f"iris/{number}": 1 for number in range(4)}))
        long = stack.enter_context(bucket({f"iris/{'n' * 300}": 1}))

        def path(name, file="model.onnx"):
            return f"{web.address}/{name}/{file}"

        outside = {"http_proxy": proxy.address, "NO_PROXY": "127.0.0.1,127.0.0.2,169.254.169.254,nowhere.invalid"}
        house = House(folder / "first", SETTINGS, {"HOME": str(folder), "HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_sesame", **outside})
        stack.callback(house.daemon.stop)
        stack.callback(faults.silent.set)
        ask = house.ask
        ask("no such file on a web server", path("gone"))
        ask("a web server wants a password", path("denied"))
        ask("a secret key that is wrong", "s3://models/team/iris", at(s3, **keys | {"AWS_SECRET_ACCESS_KEY": "wrong"}))
        ask("an access key that is not known", "s3://models/team/iris", at(s3, **keys | {"AWS_ACCESS_KEY_ID": "nobody"}))
        ask("a bucket that needs credentials", "s3://models/team/iris", at(unauthorised(stack)))
        ask("no such bucket", "s3://nowhere/team/iris", at(s3, **keys))
        ask("nothing below that key", "s3://models/team/tulip", at(s3, **keys))
        ask("no such model on a hub", "hf://team/tulip")
        ask("no such revision", "hf://team/iris:v9")
        ask("a server that is busy", path("busy"))
        ask("a server that is broken", path("broken"))
        ask("no such host", "http://nowhere.invalid/model.onnx")
        ask("nobody listens", f"http://127.0.0.1:{free_port()}/model.onnx")
        ask("a certificate that nobody vouches for", f"{unknown.address}/model.onnx")
        ask("a server that falls silent", path("stall"))
        ask("a connection that breaks again and again", path("cut"))
        ask("a server that redirects in a circle", path("circle"))
        ask("a pinned hash that differs", path("good"), sha256="ab" * 32)
        ask("bytes that differ from the store's own hash", "s3://models/iris", at(damaged.address))
        ask("a file that changes while it comes", path("changes"))
        ask("a part that was not asked for", path("otherpart"))
        ask("an error page instead of a model", path("page"))
        ask("a server that tells neither length nor end", path("endless"))
        ask("a file that is no archive", path("noarchive", "m.zip"))
        ask("an archive that leaves its folder", path("slips", "m.zip"))
        ask("an archive with links in it", path("links", "m.zip"))
        ask("an archive that unpacks to too much", path("bomb", "m.zip"))
        ask("an archive without a model in it", path("nomodel", "m.zip"))
        ask("a model of code", path("code", "m.zip"))
        ask("an address without a file name", f"{web.address}/")
        ask("a scheme that is not allowed", "hdfs://iris")
        ask("a host that is not allowed", "http://elsewhere.example.com/model.onnx")
        ask("an address of this network that is not allowed", f"http://127.0.0.2:{inner.port}/model.onnx")
        ask("a cloud's metadata service", "http://169.254.169.254/latest/model.onnx")
        ask("a redirect to a metadata service", path("metadata"))
        ask("a redirect into this network", "http://models.example.com/model.onnx")
        ask("a pinned hash of what is not fetched", "model.onnx", sha256="ab" * 32)
        ask("a pinned hash that is none", path("good"), sha256="abc")
        ask("a model above the bound", path("large"))
        ask("a model larger than the cache may be", "s3://models/iris", at(full.address))
        ask("more files than a model may have", "s3://models/iris", at(many.address))
        ask("a name that the disk cannot have", "s3://models/iris", at(long.address))
        messages = house.messages()
        assert [request for request in proxy.asked if "models.example.com" in request[1]], "the proxy was asked"
        assert not inner.asked, "nothing of this network was asked that may not be"

        other = House(folder / "second", {"download": {"model_bytes_max": 1 << 60, "attempts_max": 2, "retry_first_ms": 10}}, {"HF_ENDPOINT": hub.address, "HOME": str(folder)})
        stack.callback(other.daemon.stop)
        other.ask("more than the disk has room for", path("huge"))
        other.ask("a private or gated model of a hub", "hf://team/iris")
        messages |= other.messages()
        offline = House(folder / "third", {"offline": True})
        stack.callback(offline.daemon.stop)
        offline.ask("a model that was never fetched, without a network", path("good"))
        messages |= offline.messages()
        yield messages, (house, other, offline)


def unauthorised(stack):
    """A bucket that is not open to all."""
    body = b"<Error><Code>AccessDenied</Code></Error>"
    return stack.enter_context(servers.Double(lambda request: request.send(403, body, "application/xml"))).address


def test_the_page_and_the_faults_are_the_same_list(told):
    assert set(rows()) == set(told[0])


@pytest.mark.parametrize("what", rows())
def test_the_status_says_what_the_page_says(told, what):
    words, then = rows()[what]
    message = told[0][what]
    assert words and then in ("final", "tried again")
    assert not [word for word in words if word not in message], message
    assert "sesame" not in message
