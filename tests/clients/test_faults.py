"""Models of several files and in archives from servers that do all that goes wrong on the way, served whole in the end."""

import collections
import hashlib
import io
import pathlib
import random
import sys
import threading
import zipfile

import numpy as np
import pytest
from daemon import ROOT, service

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "stores"))
import servers  # noqa: E402

IRIS = (ROOT / "models" / "iris" / "model.onnx").read_bytes()
KIB = 1 << 10
# Files of two to ten parts, and some that are smaller than one.
NOISE = random.Random(3)
FILES = {"model.onnx": IRIS} | {f"more/{number}.bin": NOISE.randbytes(NOISE.randrange(1, 600 * KIB)) for number in range(9)}
FAULTS = ["cut", "busy", "broken", "stall", "whole", "elsewhere", "hang up"]
CONFIG = "storage: {download: {part_bytes: 65536, retry_first_ms: 1, stall_timeout_s: 1, attempts_max: 8, parts_in_flight_max: 4}}\n"


class Unreliable:
    """Sends files with every fault, a few times each and then none: which one a request meets is the seed's."""

    def __init__(self, seed, times):
        self.random, self.lock, self.ended = random.Random(seed), threading.Lock(), threading.Event()
        self.left, self.met = collections.Counter({fault: times for fault in FAULTS}), collections.Counter()

    def fault(self):
        with self.lock:
            left = [fault for fault in FAULTS if self.left[fault]]
            if not left or self.random.random() < 0.3:
                return None
            fault = self.random.choice(left)
            self.left[fault] -= 1
            self.met[fault] += 1
            return fault

    def send(self, request, content, kind, **headers):
        fault, ranged = self.fault(), "Range" in request.headers
        if fault == "busy":
            return request.send(429, **{"Retry-After": "0"})
        if fault == "broken":
            return request.send(503)
        if fault == "hang up":
            request.close_connection = True
            return None
        if fault == "whole" and ranged:
            del request.headers["Range"]
            return request.send(200, content, kind, **headers)
        if fault == "elsewhere" and ranged:
            del request.headers["Range"]
            return request.send(206, content[1:], kind, **headers, Content_Range=f"bytes 1-{len(content) - 1}/{len(content)}")
        if fault in ("cut", "stall"):
            first, last = 0, len(content)
            if ranged:
                start, _, end = request.headers["Range"].removeprefix("bytes=").partition("-")
                first, last = int(start), int(end or len(content) - 1) + 1
                headers["Content_Range"] = f"bytes {first}-{last - 1}/{len(content)}"
            request.send_response(206 if ranged else 200)
            for name, value in {"Content-Type": kind, "Content-Length": str(last - first), **headers}.items():
                request.send_header(name.replace("_", "-"), value)
            request.end_headers()
            request.wfile.write(content[first : first + (last - first) // 2])
            request.wfile.flush()
            if fault == "stall":
                self.ended.wait(10)
            request.close_connection = True
            return None
        return request.send(200, content, kind, **headers)


def served(daemon, uri, environment=None):
    daemon.write("iris.yaml", service("iris", uri))
    daemon.start(config=CONFIG, environment=environment, ready_within_s=0)
    daemon.wait_ready("iris", within_s=120)
    flower = {"measurements": np.array([[5.1, 3.5, 1.4, 0.2]], np.float32)}
    assert daemon.client.infer("json", "iris", flower)["species"][0] == b"setosa"
    (folder,) = (daemon.folder / "cache" / "models").glob("*/files")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("seed", range(3))
def test_a_bucket_of_many_files_comes_whole_through_every_fault(daemon, seed):
    unreliable = Unreliable(seed, times=4)

    def tag(content):
        return f'"{hashlib.md5(content).hexdigest()}"'

    def answer(request):
        if "list-type" in request.path:
            entries = "".join(f"<Contents><Key>iris/{name}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>{tag(content)}</ETag><Size>{len(content)}</Size></Contents>" for name, content in FILES.items())
            text = f'<?xml version="1.0"?><ListBucketResult><Name>models</Name><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>'
            return request.send(200, text.encode(), "application/xml")
        content = FILES[request.path.removeprefix("/models/iris/")]
        return unreliable.send(request, content, "application/octet-stream", ETag=tag(content), Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT")

    with servers.Double(answer) as store:
        environment = {"AWS_ENDPOINT_URL": store.address, "awsAnonymousCredential": "true", "HOME": str(daemon.folder)}
        assert served(daemon, "s3://models/iris", environment) == FILES
        unreliable.ended.set()
    assert set(unreliable.met) == set(FAULTS), "every fault was met"


@pytest.mark.parametrize("seed", range(3))
def test_an_archive_comes_whole_through_every_fault(daemon, seed):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    unreliable, content = Unreliable(seed, times=2), packed.getvalue()
    tag = f'"{hashlib.md5(content).hexdigest()}"'
    with servers.Double(lambda request: unreliable.send(request, content, "application/zip", ETag=tag)) as web:
        assert served(daemon, f"{web.address}/iris.zip") == FILES
        unreliable.ended.set()
    assert set(unreliable.met) == set(FAULTS), "every fault was met"
