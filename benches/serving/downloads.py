"""Downloads over loopback against curl and boto3, and a start from the cache against one from a plain file.

Run: make bench-downloads    (BENCH_ARGS="--large-mib 256 --small 200 --model-mib 20 --rounds 1" for a short run)
"""

import argparse
import http.server
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "tests" / "clients"))

import tables  # noqa: E402
from daemon import ROOT, Daemon, free_port, service  # noqa: E402

BUCKET = "bench"
PAGE = 1000
SMALL_BYTES = 10_000
# KServe's own loop over a bucket: one object after the other.
SEQUENTIAL = """
import sys, boto3, botocore, pathlib
address, target = sys.argv[1], pathlib.Path(sys.argv[2])
config = botocore.client.Config(signature_version=botocore.UNSIGNED, s3={"addressing_style": "path"})
bucket = boto3.resource("s3", endpoint_url=address, region_name="us-east-1", config=config).Bucket("bench")
for found in bucket.objects.filter(Prefix="small/"):
    path = target / found.key
    path.parent.mkdir(parents=True, exist_ok=True)
    bucket.download_file(found.key, str(path))
"""


class Files(http.server.BaseHTTPRequestHandler):
    """A folder with ranges, versions and `sendfile`, so that the server costs little; a bucket over the same folder."""

    protocol_version = "HTTP/1.1"
    folder = pathlib.Path()

    def do_GET(self):
        address = urllib.parse.urlsplit(self.path)
        asked = urllib.parse.parse_qs(address.query)
        if address.path.strip("/") == BUCKET:
            # Both versions of S3's listing: kserved asks by the second, boto3's resources by the first.
            after = asked.get("continuation-token", asked.get("marker", [""]))[0]
            return self.list(asked.get("prefix", [""])[0], after)
        path = self.folder / urllib.parse.unquote(address.path).lstrip("/").removeprefix(f"{BUCKET}/")
        with path.open("rb") as file:
            total = os.fstat(file.fileno()).st_size
            begin, end, ranged = 0, total, self.headers.get("Range")
            if ranged:
                first, last = ranged.removeprefix("bytes=").split("-")
                begin, end = int(first), int(last) + 1 if last else total
            self.send_response(206 if ranged else 200)
            if ranged:
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{total}")
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("ETag", f'"{total}-1"')
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            self.send_header("Content-Length", str(end - begin))
            self.end_headers()
            self.wfile.flush()
            try:
                while begin < end:
                    begin += os.sendfile(self.connection.fileno(), file.fileno(), begin, end - begin)
            except OSError:
                self.close_connection = True

    def do_HEAD(self):
        total = (self.folder / self.path.lstrip("/").removeprefix(f"{BUCKET}/")).stat().st_size
        self.send_response(200)
        self.send_header("ETag", f'"{total}-1"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("Content-Length", str(total))
        self.end_headers()

    def list(self, prefix, after):
        """A page of the bucket's keys, as S3 writes it."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        sizes = {str(path.relative_to(self.folder)): path.stat().st_size for path in files}
        keys = sorted(key for key in sizes if key.startswith(prefix) and key > after)
        page, more = keys[:PAGE], len(keys) > PAGE
        one = "<Contents><Key>{0}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;{1}-1&quot;</ETag><Size>{1}</Size></Contents>"
        token = f"<NextContinuationToken>{page[-1]}</NextContinuationToken>" if more else ""
        head = f"<Name>{BUCKET}</Name><KeyCount>{len(page)}</KeyCount><MaxKeys>{PAGE}</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>"
        contents = "".join(one.format(key, sizes[key]) for key in page)
        body = f'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{head}{token}{contents}</ListBucketResult>'.encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def serve(folder):
    """Starts the file server as a process of its own; gives it and its address."""
    port = free_port()
    process = subprocess.Popen([sys.executable, __file__, "--serve", str(folder), str(port)])
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process, f"http://127.0.0.1:{port}"
        except OSError:
            time.sleep(0.05)


def timed(command, **settings):
    """Seconds and the most memory in MiB of a command."""
    began = time.monotonic()
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **settings)
    _, status, usage = os.wait4(process.pid, 0)
    took = time.monotonic() - began
    if status:
        raise SystemExit(process.stderr.read().decode())
    process.stderr.close()
    return took, usage.ru_maxrss / 1024


def pull(options, cache, uri, address):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KSERVED_", "AWS_", "S3_"))}
    environment |= {"KSERVED_STORAGE_CACHE": str(cache), "AWS_ENDPOINT_URL": address, "HOME": str(cache.parent)}
    return timed([options.kserved, "pull", "--quiet", uri], env=environment, cwd=cache.parent)


def large(options, folder, address):
    """The same bytes by curl, by curl with the bytes brought to the disk, and by kserved with their hash."""
    size, served = options.large_mib << 20, folder / "served" / "large.bin"
    with served.open("wb") as file:
        for _ in range(options.large_mib):
            file.write(os.urandom(1 << 20))
    target, cache = folder / "by-curl", folder / "cache"
    curl = ["curl", "-sf", "-o", target, f"{address}/large.bin"]
    ways = {
        "curl": lambda: timed(curl),
        "curl, then sync": lambda: timed(["sh", "-c", f"curl -sf -o {target} {address}/large.bin && sync {target}"]),
        "kserved pull http://": lambda: pull(options, cache, f"{address}/large.bin", address),
        "kserved pull s3://": lambda: pull(options, cache, f"s3://{BUCKET}/large.bin", address),
    }
    found, memory = {name: [] for name in ways}, 0
    for _ in range(options.rounds):
        for name, way in ways.items():
            took, peak = way()
            found[name].append(took)
            if name.startswith("kserved"):
                memory = max(memory, peak)
            target.unlink(missing_ok=True)
            shutil.rmtree(cache, ignore_errors=True)
            os.sync()
    served.unlink()
    middle = {name: statistics.median(times) for name, times in found.items()}
    rows = [[name, took, size / took / 1e6, middle["curl"] / took, middle["curl, then sync"] / took] for name, took in middle.items()]
    return rows, memory


def small(options, folder, address):
    """Many small objects by boto3, one after the other as KServe fetches them, and by kserved."""
    served = folder / "served" / "small"
    for number in range(options.small):
        path = served / f"d{number % 20:02}" / f"f{number:05}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(SMALL_BYTES))
    python = subprocess.run([sys.executable, ROOT / "scripts" / "environment.py", ROOT / "tests" / "clients" / "stores" / "requirements.txt"], check=True, capture_output=True, text=True).stdout.strip()
    target, cache, found = folder / "by-boto3", folder / "cache", {"boto3, one after the other": [], "kserved pull s3://": []}
    for _ in range(options.rounds):
        found["boto3, one after the other"].append(timed([python, "-c", SEQUENTIAL, address, target])[0])
        found["kserved pull s3://"].append(pull(options, cache, f"s3://{BUCKET}/small/", address)[0])
        fetched = sum(1 for path in cache.glob("models/*/files/**/*") if path.is_file())
        assert fetched == options.small == sum(1 for path in target.rglob("*") if path.is_file()), f"{fetched} files came"
        shutil.rmtree(target)
        shutil.rmtree(cache)
        os.sync()
    shutil.rmtree(served)
    middle = {name: statistics.median(times) for name, times in found.items()}
    slowest = middle["boto3, one after the other"]
    return [[name, took, options.small / took, slowest / took] for name, took in middle.items()]


def starts(options, folder, address):
    """Seconds from a daemon's start to a Ready service: from the cache of a fetched model, and from the plain file."""
    served = folder / "served" / "model.onnx"
    make_model(served, options.model_mib)
    daemons = {"plain file": (Daemon(folder / "plain", options.kserved), served), "cached http://": (Daemon(folder / "cached", options.kserved), f"{address}/model.onnx")}
    found = {name: [] for name in daemons}
    for daemon, uri in daemons.values():
        daemon.write("big.yaml", service("big", uri))
    # The first start of each fetches and fills the caches.
    for turn in range(options.rounds + 1):
        for name, (daemon, _) in daemons.items():
            began = time.monotonic()
            daemon.start(ready_within_s=300)
            daemon.wait_ready("big", 300)
            if turn:
                found[name].append(time.monotonic() - began)
            daemon.stop()
    middle = {name: statistics.median(times) for name, times in found.items()}
    return [[name, took, took / middle["plain file"]] for name, took in middle.items()]


def make_model(path, mib):
    """An ONNX model of one product with weights of about that size."""
    import numpy
    import onnx

    width = int((mib * (1 << 20) / 4) ** 0.5)
    weights = onnx.numpy_helper.from_array(numpy.random.default_rng(1).random((width, width), dtype=numpy.float32), "w")
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, width])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, width])
    graph = onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "product", [x], [y], [weights])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    path.write_bytes(model.SerializeToString())


def main():
    if sys.argv[1:2] == ["--serve"]:
        Files.folder = pathlib.Path(sys.argv[2])
        server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[3])), Files)
        server.serve_forever()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large-mib", type=int, default=2048)
    parser.add_argument("--small", type=int, default=2000, help="how many files of 10 KB")
    parser.add_argument("--model-mib", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=pathlib.Path, help="where files lie meanwhile [default: the system's folder for them]")
    options = tables.arguments(parser)
    with tempfile.TemporaryDirectory(prefix="kserved-downloads-", dir=options.folder) as name:
        folder = pathlib.Path(name)
        (folder / "served").mkdir()
        server, address = serve(folder / "served")
        try:
            large_rows, memory = large(options, folder, address)
            small_rows = small(options, folder, address)
            start_rows = starts(options, folder, address)
        finally:
            server.kill()
            server.wait()
    sizes = f"--large-mib {options.large_mib} --small {options.small} --model-mib {options.model_mib} --rounds {options.rounds}"
    lines = [
        tables.machine(f"make bench-downloads BENCH_ARGS='{sizes}'"),
        f"All over loopback from a server that uses `sendfile`; medians of {options.rounds} rounds, taken in turn. `kserved pull` hashes the bytes, "
        "brings them to the disk and keeps them as a model; `curl` and boto3 leave them in the page cache.",
        "",
        f"One file of {options.large_mib} MiB:",
        "",
        *tables.table(["", "seconds", "MB/s", "of curl's rate (goal 0.8)", "of curl's rate with sync"], large_rows),
        "",
        f"Most memory of `kserved pull`: {memory:.0f} MiB (goal: below 64).",
        "",
        f"{options.small} objects of 10 KB:",
        "",
        *tables.table(["", "seconds", "objects/s", "times boto3's rate (goal 3)"], small_rows),
        "",
        f"A daemon's start until its one model of {options.model_mib} MiB is Ready:",
        "",
        *tables.table(["", "seconds", "of the plain file's time (goal: at most 1.1)"], start_rows),
    ]
    tables.write(options.output, "downloads", "Downloads", lines)


if __name__ == "__main__":
    main()
