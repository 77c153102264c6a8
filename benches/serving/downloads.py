"""A download over loopback against curl.

Run: make bench-downloads    (BENCH_ARGS="--large-mib 256 --rounds 1" for a short run)
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

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "tests" / "clients"))

import tables  # noqa: E402


class Files(http.server.BaseHTTPRequestHandler):
    """A folder with ranges, versions and `sendfile`, so that the server costs little."""

    protocol_version = "HTTP/1.1"
    folder = pathlib.Path()

    def do_GET(self):
        path = self.folder / self.path.lstrip("/")
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
            self.send_header("ETag", f'"{total}"')
            self.send_header("Content-Length", str(end - begin))
            self.end_headers()
            self.wfile.flush()
            try:
                while begin < end:
                    begin += os.sendfile(self.connection.fileno(), file.fileno(), begin, end - begin)
            except OSError:
                self.close_connection = True

    def log_message(self, *arguments):
        pass


def serve(folder):
    """Starts the file server as a process of its own; gives it and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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


def pull(options, cache, *uris, sets=()):
    command = [options.kserved, "pull", "--quiet", *[word for pair in sets for word in ("--set", pair)], *uris]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KSERVED_")}
    return timed(command, env={**environment, "KSERVED_STORAGE_CACHE": str(cache)}, cwd=cache.parent)


def large(options, folder, address):
    """The same bytes by curl, by curl with the bytes brought to the disk, and by kserved with their hash."""
    size = options.large_mib << 20
    with (folder / "large.bin").open("wb") as file:
        for _ in range(options.large_mib):
            file.write(os.urandom(1 << 20))
    found = {"curl": [], "curl, then sync": [], "kserved pull": []}
    memory = 0
    for _ in range(options.rounds):
        target, cache = folder / "by-curl", folder / "cache"
        found["curl"].append(timed(["curl", "-sf", "-o", target, f"{address}/large.bin"])[0])
        os.sync()
        target.unlink()
        found["curl, then sync"].append(timed(["sh", "-c", f"curl -sf -o {target} {address}/large.bin && sync {target}"])[0])
        target.unlink()
        took, peak = pull(options, cache, f"{address}/large.bin")
        found["kserved pull"].append(took)
        memory = max(memory, peak)
        shutil.rmtree(cache)
        os.sync()
    middle = {name: statistics.median(times) for name, times in found.items()}
    rows = [[name, took, size / took / 1e6, middle["curl"] / took, middle["curl, then sync"] / took] for name, took in middle.items()]
    return rows, memory


def main():
    if sys.argv[1:2] == ["--serve"]:
        Files.folder = pathlib.Path(sys.argv[2])
        server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[3])), Files)
        server.serve_forever()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large-mib", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=pathlib.Path, help="where files lie meanwhile [default: the system's folder for them]")
    options = tables.arguments(parser)
    with tempfile.TemporaryDirectory(prefix="kserved-downloads-", dir=options.folder) as name:
        folder = pathlib.Path(name)
        server, address = serve(folder)
        try:
            rows, memory = large(options, folder, address)
        finally:
            server.kill()
            server.wait()
    command = f"make bench-downloads BENCH_ARGS='--large-mib {options.large_mib} --rounds {options.rounds}'"
    lines = [
        tables.machine(command),
        f"One file of {options.large_mib} MiB over loopback from a server that uses `sendfile`; medians of {options.rounds} rounds, taken in turn. "
        "`kserved pull` hashes the bytes, brings them to the disk and keeps them as a model; `curl` leaves them in the page cache.",
        "",
        *tables.table(["", "seconds", "MB/s", "of curl's rate (goal 0.8)", "of curl's rate with sync"], rows),
        "",
        f"Most memory of `kserved pull`: {memory:.0f} MiB (goal: below 64).",
    ]
    tables.write(options.output, "downloads", "Downloads", lines)


if __name__ == "__main__":
    main()
