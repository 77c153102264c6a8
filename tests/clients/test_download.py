"""Downloads that are killed, and the cache on the command line, with the real binary and a real web server."""

import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import pytest
from daemon import BINARY, ROOT, service
from file_server import FileServer

MIB = 1 << 20
KILLS = 50
CONTENT = random.Random(5).randbytes(48 * MIB)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SPEED = 8 * MIB
REQUESTS = 3
# As docs/storage.md tells: what a kill may cost.
BUFFER, NOTE_EVERY = MIB // 4, 4 * MIB


@pytest.fixture
def server():
    started = FileServer(CONTENT, SPEED)
    yield started
    started.stop()


@pytest.fixture
def small_server():
    started = FileServer((ROOT / "models" / "iris" / "model.onnx").read_bytes())
    yield started
    started.stop()


def command(cache, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KSERVED_")}
    environment["KSERVED_STORAGE_CACHE"] = str(cache)
    return [BINARY, *arguments], {"env": environment, "cwd": pathlib.Path(cache).parent}


def run(cache, *arguments, code=0, piped=None):
    """Runs a command to its end and gives what it printed."""
    words, settings = command(cache, *arguments)
    ended = subprocess.run(words, input=piped, capture_output=True, timeout=60, **settings)
    assert ended.returncode == code, ended.stderr.decode()
    return ended.stdout if piped is not None or "-" in arguments else (ended.stdout + ended.stderr).decode()


def noted(cache):
    """The ranges that the notes of unfinished downloads say are here: of each file's current bytes."""
    ranges = []
    for folder in pathlib.Path(cache).glob("partial/*"):
        safe, fresh = folder / "ledger.json", folder / "fresh.json"
        notes = list(json.loads(safe.read_text()).values()) if safe.is_file() else []
        notes += list(json.loads(fresh.read_text())["notes"].values()) if fresh.is_file() else []
        ranges += [tuple(one) for note in notes if (folder / "bodies" / note["body"]).exists() for one in note["written"]]
    return ranges


def union(ranges):
    """How many bytes ranges cover together."""
    covered, end = 0, 0
    for start, until in sorted(ranges):
        covered += max(0, until - max(start, end))
        end = max(end, until)
    return covered


def on_disk(cache):
    """Bytes that unfinished downloads wrote, noted or not."""
    return sum(path.stat().st_blocks * 512 for path in pathlib.Path(cache).glob("partial/*/bodies/*"))


def whole(cache):
    return [path for path in pathlib.Path(cache).glob("models/*/files/*") if path.is_file()]


def test_a_download_killed_at_fifty_moments_is_never_corrupt_and_never_begins_from_zero(tmp_path, server):
    moments, cache, finished, resumed = random.Random(1), tmp_path / "cache", 0, 0
    parts = ["--set", f"storage.download.part_bytes={MIB}", "--set", f"storage.download.parts_in_flight_max={REQUESTS}"]
    for _ in range(KILLS):
        before, seen = noted(cache), len(server.asked)
        words, settings = command(cache, "pull", "--quiet", *parts, f"{server.address}/model-{finished}.onnx")
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **settings)
        # A moment is a number of bytes, so that a slow machine has as many of them as a fast one.
        enough, deadline = server.sent + moments.randrange(4 * MIB), time.monotonic() + 60
        while process.poll() is None and server.sent < enough and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() in (0, -signal.SIGKILL), process.stderr.read()
        process.stderr.close()
        written, known = on_disk(cache), union(noted(cache))
        assert known or written <= REQUESTS * BUFFER, "once every request wrote its first buffer, nothing begins from zero"
        assert written - known <= NOTE_EVERY + 2 * REQUESTS * BUFFER, "a kill costs no more than is told"
        again = [(start, end) for _, start, end in server.asked[seen:] for a, b in before if start < b and a < end]
        assert not again, f"asked again for what was safe: {again} of {before}"
        resumed += bool(before)
        models = whole(cache)
        assert all(hashlib.sha256(path.read_bytes()).hexdigest() == SHA256 for path in models), "what is seen is whole"
        finished = len(models)
    assert resumed, "some restart had something to go on from"
    server.bytes_per_second = None
    run(cache, "pull", "--quiet", *parts, f"{server.address}/model-{finished}.onnx")
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in whole(cache)} == {SHA256}


def test_a_pinned_hash_is_checked_and_a_wrong_one_keeps_nothing(tmp_path, server):
    server.bytes_per_second = None
    cache, uri = tmp_path / "cache", f"{server.address}/m.onnx"
    path = pathlib.Path(run(cache, "pull", "--quiet", "--sha256", SHA256, uri).strip())
    assert hashlib.sha256((path / "m.onnx").read_bytes()).hexdigest() == SHA256
    refused = run(cache, "pull", "--sha256", "00" * 32, uri, code=1)
    assert SHA256 in refused and "00" * 32 in refused
    assert len(whole(cache)) == 1
    run(cache, "pull", "--sha256", "abc", uri, code=2)


def test_a_service_pins_its_models_hash_and_another_hash_takes_nothing_away(daemon, small_server):
    def pinned(digest):
        text = service("iris", f"{small_server.address}/model.onnx")
        daemon.write("iris.yaml", text.replace("  name: iris\n", f"  name: iris\n  annotations: {{kserved.io/model-sha256: '{digest}'}}\n", 1))

    def failure():
        status = daemon.resource("iris")["status"]["modelStatus"]
        return (status.get("lastFailureInfo") or {}).get("message", "")

    right = hashlib.sha256(small_server.content).hexdigest()
    pinned(right)
    daemon.start()
    daemon.wait_ready("iris")
    pinned("ab" * 32)
    daemon.wait_for(lambda: "ab" * 32 in failure() and right in failure(), 30, "names both hashes")
    assert daemon.client.get("/v2/models/iris/ready").status == 200, "the revision of the right hash goes on serving"
    assert len(whole(daemon.folder / "cache")) == 1


def test_a_start_without_network_serves_what_was_pulled(daemon, small_server):
    uri = f"{small_server.address}/model.onnx"
    run(daemon.folder / "cache", "pull", uri)
    small_server.stop()
    daemon.write("iris.yaml", service("iris", uri))
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        daemon.start()
    finally:
        del os.environ["HF_HUB_OFFLINE"]
    assert daemon.client.get("/v2/models/iris/ready").status == 200
    listed = json.loads(run(daemon.folder / "cache", "cache", "list", "-o", "json"))
    assert [model["in_use"] for model in listed["models"]] == [True]
    # Another process never removes what this daemon serves.
    run(daemon.folder / "cache", "cache", "prune", "--all")
    run(daemon.folder / "cache", "cache", "rm", uri, code=1)
    assert len(whole(daemon.folder / "cache")) == 1
    daemon.stop()
    run(daemon.folder / "cache", "cache", "rm", uri)
    assert not whole(daemon.folder / "cache")


def test_the_cache_is_listed_pinned_verified_repaired_and_carried_to_another_machine(tmp_path, small_server):
    here, there = tmp_path / "here", tmp_path / "there"
    uris = [f"{small_server.address}/{name}.onnx" for name in ["a", "b"]]
    run(here, "pull", *uris)
    listed = run(here, "cache", "list")
    assert all(uri in listed for uri in uris) and "models: " in listed
    run(here, "cache", "pin", uris[0])
    assert "pinned by `user`" in run(here, "cache", "rm", uris[0], code=1)
    assert uris[1] in run(here, "cache", "prune", "--all")
    assert uris[0] in run(here, "cache", "list")
    run(here, "cache", "export", str(tmp_path / "models.tar"))
    run(there, "cache", "import", str(tmp_path / "models.tar"))
    assert "1 models, 0 damaged" in run(there, "cache", "verify")
    model = whole(there)[0]
    content = bytearray(model.read_bytes())
    content[100] ^= 1
    model.unlink()
    model.write_bytes(content)
    assert "a.onnx: it hashes to" in run(there, "cache", "verify", code=1)
    assert "removed: " in run(there, "cache", "verify", "--repair")
    assert not whole(there)
    run(here, "cache", "unpin", uris[0])
    tar = run(here, "cache", "export", "-")
    assert b"imported: " in run(there, "cache", "import", "-", piped=tar)
    assert b"was here: " in run(there, "cache", "import", "-", piped=tar)
    shutil.rmtree(here)
    assert "models: 0 B" in run(here, "cache", "list")


def test_a_service_deleted_half_way_ends_its_download_and_what_came_is_gone_on_with(daemon, server):
    daemon.start()
    daemon.write("big.yaml", service("big", f"{server.address}/big.onnx"))
    path = "/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices/big"
    daemon.wait_for(lambda: b"fetching the model: " in (said := daemon.client.get(path).body) and b"MiB/s" in said, 30, "says how far it is")
    cache = daemon.folder / "cache"
    daemon.wait_for(lambda: noted(cache), 30, "notes what is safe")
    (daemon.models / "big.yaml").unlink()
    daemon.wait_for(lambda: server.open == 0, 30, "hangs up")
    before, seen = noted(cache), len(server.asked)
    assert before and not whole(cache)
    server.bytes_per_second = None
    daemon.write("big.yaml", service("big", f"{server.address}/big.onnx"))
    daemon.wait_for(lambda: whole(cache), 60, "fetches the rest")
    assert not [(start, end) for _, start, end in server.asked[seen:] for a, b in before if start < b and a < end]
    metrics = daemon.client.get("/metrics").body.decode()
    fetched = next(line for line in metrics.splitlines() if line.startswith("kserved_download_bytes_total "))
    assert int(fetched.split()[1]) >= len(CONTENT)
    assert 'kserved_cache_lookups_total{result="miss"}' in metrics
    # What the cache holds is counted after the model is seen.
    held = f'kserved_cache_bytes{{of="models"}} {len(CONTENT)}'
    daemon.wait_for(lambda: held in daemon.client.get("/metrics").body.decode(), 30, "counts what the cache holds")


def test_a_plan_says_what_would_be_fetched_and_fetches_nothing(small_server, tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    uri = f"{small_server.address}/iris.onnx"
    shutil.copy(ROOT / "models" / "iris" / "model.onnx", models / "here.onnx")
    for name, place in [("away", uri), ("near", "here.onnx"), ("lost", "nowhere.onnx")]:
        (models / f"{name}.yaml").write_text(service(name, place))

    def plan(*more, code=0):
        printed = run(tmp_path / "cache", "plan", *more, "--models", models, "--runtimes", ROOT / "runtimes", code=code)
        return {line.split()[1]: line.split()[-2:] for line in printed.splitlines()[1:] if len(line.split()) > 4}

    def cached():
        return {name: " ".join(cells) if cells[-1] in ("KiB", "MiB", "B") else cells[-1] for name, cells in plan().items()}

    assert cached() == {"away": "no", "near": "here", "lost": "missing"}
    assert not small_server.asked and not (tmp_path / "cache" / "models").exists()
    run(tmp_path / "cache", "pull", "--quiet", uri)
    size = (models / "here.onnx").stat().st_size
    assert cached()["away"] in (f"{size} B", f"{size / 1024:.1f} KiB")
    (models / "lost.yaml").write_text("kind: InferenceService\napiVersion: serving.kserve.io/v1beta1\nmetadata: {name: lost}\nspec: {}\n")
    assert set(plan(code=1)) >= {"away", "near"} and "lost" not in plan(code=1)
    assert set(plan(models / "near.yaml")) == {"near"}
