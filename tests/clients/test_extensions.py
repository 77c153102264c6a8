"""Triton's extensions with tritonclient as it is: configuration, statistics, streams, shared memory, Unix sockets."""

import base64
import http.client
import os
import queue
import re
import socket
import stat
import subprocess
import uuid

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from daemon import FIXTURES, Daemon
from tritonclient.utils import InferenceServerException, shared_memory

ROW = np.array([[0.5, -1.0, 2.0, 0.25]], np.float32)
STAGES = ["queue", "compute_input", "compute_infer", "compute_output"]
CONFIG = "protocol:\n  shared_memory:\n    enabled: true\n    regions_max: 8\n    region_bytes_max: 67108864\n  stream_inflight_max: 4\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A daemon with shared memory and Unix sockets."""
    daemon = Daemon(tmp_path_factory.mktemp("extensions"))
    for name in ["mlp", "add_sub", "identity_fp32", "identity_fp16", "identity_bytes", "slow"]:
        daemon.add(name.replace("_", "-"), FIXTURES / f"{name}.onnx")
    daemon.start("--http-unix", daemon.folder / "http.sock", "--grpc-unix", daemon.folder / "grpc.sock", config=CONFIG)
    yield daemon
    assert daemon.stop() == 0
    assert not (daemon.folder / "http.sock").exists() and not (daemon.folder / "grpc.sock").exists()


@pytest.fixture
def http_client(served):
    with tritonclient.http.InferenceServerClient(served.http) as client:
        yield client


@pytest.fixture
def grpc_client(served):
    with tritonclient.grpc.InferenceServerClient(served.grpc) as client:
        yield client


@pytest.fixture(params=["http", "grpc"])
def wire(request, served):
    """Each of tritonclient's two libraries with a client of it."""
    library, target = {"http": (tritonclient.http, served.http), "grpc": (tritonclient.grpc, served.grpc)}[request.param]
    with library.InferenceServerClient(target) as client:
        yield library, client


def given(library, name, array, datatype="FP32"):
    tensor = library.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def plain(answer):
    """An answer of either library as JSON-like values."""
    if isinstance(answer, (dict, list)):
        return answer
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def statistics(client, model):
    (found,) = plain(client.get_inference_statistics(model))["model_stats"]
    return found


def count(statistics, stage):
    return int(statistics["inference_stats"][stage]["count"])


# Configuration and statistics


def test_the_extensions_that_are_served_are_named(served, small, http_client, grpc_client):
    named = ["binary_tensor_data", "model_repository", "model_configuration", "statistics"]
    assert http_client.get_server_metadata()["extensions"] == [*named, "system_shared_memory"]
    assert list(grpc_client.get_server_metadata().extensions) == [*named, "system_shared_memory"]
    assert small.client.get("/v2").json()["extensions"] == named


def test_a_models_configuration_is_what_its_metadata_says(wire):
    _, client = wire
    found = plain(client.get_model_config("add-sub"))
    found = found.get("config", found)
    assert (found["name"], found["platform"], found["backend"]) == ("add-sub", "onnxruntime_onnx", "onnxruntime")
    assert found["max_batch_size"] == 0 and "dynamic_batching" not in found
    assert [(entry["name"], entry["data_type"]) for entry in found["input"]] == [("a", "TYPE_FP32"), ("b", "TYPE_FP32")]
    assert [list(map(int, entry["dims"])) for entry in found["output"]] == [[-1, 4], [-1, 4]]
    (group,) = found["instance_group"]
    assert group["kind"] == "KIND_CPU" and group["count"] == os.cpu_count()


@pytest.mark.parametrize("kind", ["config", "stats"])
def test_a_version_is_the_one_served_or_not_found(served, kind):
    assert served.client.get(f"/v2/models/mlp/versions/1/{kind}").status == 200
    answer = served.client.get(f"/v2/models/mlp/versions/7/{kind}")
    assert (answer.status, answer.json()) == (
        404,
        {"error": "model `mlp` has no version `7` here; it serves version `1`"},
    )
    assert served.client.get(f"/v2/models/nobody/{kind}").status == 404


def test_statistics_count_every_answer_and_every_failure_once(wire):
    library, client = wire
    before = statistics(client, "mlp")
    for _ in range(7):
        client.infer("mlp", [given(library, "x", ROW)])
    for _ in range(3):
        with pytest.raises(InferenceServerException):
            client.infer("mlp", [given(library, "x", ROW[:, :3])])
    after = statistics(client, "mlp")
    assert count(after, "success") - count(before, "success") == 7
    assert count(after, "fail") - count(before, "fail") == 3
    assert all(count(after, stage) == count(after, "success") for stage in STAGES)
    assert int(after["inference_count"]) == int(after["execution_count"]) == count(after, "success")
    assert int(after["last_inference"]) > int(before["last_inference"])
    spent = {stage: int(after["inference_stats"][stage]["ns"]) for stage in ["success", *STAGES]}
    assert 0 < sum(spent[stage] for stage in STAGES) <= spent["success"]
    (batch,) = after["batch_stats"]
    assert int(batch["batch_size"]) == 1
    assert int(batch["compute_infer"]["count"]) == int(after["execution_count"])


def test_statistics_of_all_models_are_listed_and_a_look_changes_nothing(wire):
    _, client = wire
    first, second = (plain(client.get_inference_statistics())["model_stats"] for _ in range(2))
    assert first == second
    assert [entry["name"] for entry in first] == sorted(
        ["mlp", "add-sub", "identity-fp32", "identity-fp16", "identity-bytes", "slow"]
    )


HASTY = "autoscaling:\n  tick_ms: 20\n  stable_window_s: 1\n  scale_to_zero_grace_s: 0\n"


def test_a_model_that_sleeps_tells_its_configuration_and_statistics_and_sleeps_on(daemon):
    daemon.add("mlp", FIXTURES / "mlp.onnx")
    manifest = (daemon.models / "mlp.yaml").read_text()
    daemon.write("mlp.yaml", manifest.replace("  predictor:\n", "  predictor:\n    minReplicas: 0\n"))
    daemon.start(config=HASTY)
    asleep = lambda: daemon.condition("mlp", "Asleep")
    daemon.wait_for(asleep, 30, "sleeps")
    loads = lambda: [line for line in daemon.client.get("/metrics").body.decode().splitlines() if "load_seconds_count" in line]
    before = loads()
    for _ in range(3):
        (found,) = daemon.client.get("/v2/models/mlp/stats").json()["model_stats"]
        assert found["inference_count"] == 0
        assert len(daemon.client.get("/v2/models/stats").json()["model_stats"]) == 1
        assert daemon.client.get("/v2/models/mlp/config").json()["input"][0]["name"] == "x"
    assert asleep() and loads() == before
    with tritonclient.http.InferenceServerClient(daemon.http) as client:
        client.infer("mlp", [given(tritonclient.http, "x", ROW)])
        assert count(statistics(client, "mlp"), "success") == 1


def test_tritonclient_loads_and_unloads_by_hand(daemon):
    daemon.add("mlp", FIXTURES / "mlp.onnx")
    daemon.start()
    with tritonclient.http.InferenceServerClient(daemon.http) as http_client:
        with tritonclient.grpc.InferenceServerClient(daemon.grpc) as grpc_client:
            for client in (http_client, grpc_client):
                client.unload_model("mlp")
                assert not client.is_model_ready("mlp")
                client.load_model("mlp")
                assert client.is_model_ready("mlp")


# Streams


@pytest.fixture
def stream(grpc_client):
    """A stream and the queue its answers come into."""
    answers = queue.Queue()
    grpc_client.start_stream(lambda result, error: answers.put((result, error)))
    yield grpc_client, answers
    grpc_client.stop_stream()


def test_answers_of_a_stream_come_in_the_order_of_its_requests(stream):
    client, answers = stream
    slow = given(tritonclient.grpc, "iterations", np.array([200_000], np.int64), "INT64")
    client.async_stream_infer("slow", [slow], request_id="0")
    for number in range(1, 50):
        client.async_stream_infer("mlp", [given(tritonclient.grpc, "x", ROW)], request_id=str(number))
    for number in range(50):
        result, error = answers.get(timeout=30)
        assert error is None
        assert result.get_response().id == str(number)
        parameters = result.get_response().parameters
        assert parameters["triton_final_response"].bool_param
        assert parameters["x-kserved-revision"].string_param == f"{'slow' if number == 0 else 'mlp'}-predictor-00001"


def test_an_error_costs_one_answer_and_the_stream_goes_on(stream):
    client, answers = stream
    client.async_stream_infer("nobody", [given(tritonclient.grpc, "x", ROW)], request_id="a")
    client.async_stream_infer("mlp", [given(tritonclient.grpc, "x", ROW[:, :2])], request_id="b")
    client.async_stream_infer("mlp", [given(tritonclient.grpc, "x", ROW)], request_id="c")
    for words in ["nobody does not exist", "takes 4 in dimension 1"]:
        result, error = answers.get(timeout=30)
        assert result is None and words in error.message()
    result, error = answers.get(timeout=30)
    assert error is None and result.get_response().id == "c"
    assert result.as_numpy("probabilities").shape == (1, 3)


def test_a_client_that_leaves_takes_its_waiting_requests_with_it(served, grpc_client):
    before = statistics(grpc_client, "slow")
    with tritonclient.grpc.InferenceServerClient(served.grpc) as leaving:
        leaving.start_stream(lambda result, error: None)
        slow = given(tritonclient.grpc, "iterations", np.array([2_000_000], np.int64), "INT64")
        for _ in range(40):
            leaving.async_stream_infer("slow", [slow])
        waiting = re.compile(r'^kserved_queue_length\{model="slow".*\} [1-9]', re.MULTILINE)
        served.wait_for(lambda: waiting.search(served.client.get("/metrics").body.decode()), 20, "works on the stream")
        leaving.stop_stream(cancel_requests=True)
    ended = lambda: count(statistics(grpc_client, "slow"), "fail") > count(before, "fail")
    served.wait_for(ended, 30, "drops what was left")
    after = statistics(grpc_client, "slow")
    assert int(after["execution_count"]) - int(before["execution_count"]) < 40


# Shared memory


class Region:
    """A shared memory object, registered with a client."""

    def __init__(self, client, byte_size, offset=0):
        self.client, self.name = client, f"region-{uuid.uuid4().hex[:8]}"
        self.key = f"/kserved-{self.name}"
        self.handle = shared_memory.create_shared_memory_region(self.name, self.key, byte_size + offset)
        client.register_system_shared_memory(self.name, self.key, byte_size, offset)

    def close(self):
        self.client.unregister_system_shared_memory(self.name)
        shared_memory.destroy_shared_memory_region(self.handle)


@pytest.fixture
def region(wire):
    """Makes registered regions, and takes them away at the end."""
    _, client = wire
    made = []

    def make(byte_size, offset=0):
        made.append(Region(client, byte_size, offset))
        return made[-1]

    yield make
    for each in made:
        each.close()


def placed(library, name, shape, region, byte_size, offset=0, datatype="FP32"):
    tensor = library.InferInput(name, shape, datatype)
    tensor.set_shared_memory(region.name, byte_size, offset)
    return tensor


def copied(served):
    """Bytes of tensors copied so far, by reason."""
    lines = served.client.get("/metrics").body.decode().splitlines()
    return {line.split('"')[1]: int(float(line.split()[-1])) for line in lines if line.startswith("kserved_copied_bytes_total{")}


def wanted(library, name, region, byte_size, offset=0):
    output = library.InferRequestedOutput(name)
    output.set_shared_memory(region.name, byte_size, offset)
    return output


def test_tensors_go_through_shared_memory_both_ways(wire, region):
    library, client = wire
    inputs, outputs = region(64), region(64, offset=4096)
    shared_memory.set_shared_memory_region(inputs.handle, [ROW, ROW * 2])
    result = client.infer(
        "add-sub",
        [placed(library, "a", [1, 4], inputs, 16), placed(library, "b", [1, 4], inputs, 16, offset=16)],
        outputs=[wanted(library, "sum", outputs, 32), library.InferRequestedOutput("difference")],
    )
    found = shared_memory.get_contents_as_numpy(outputs.handle, np.float32, [1, 4], offset=4096)
    np.testing.assert_array_equal(found, ROW * 3)
    np.testing.assert_array_equal(result.as_numpy("difference"), -ROW)
    described = plain(result.get_output("sum"))
    assert described["parameters"].keys() == {"shared_memory_region", "shared_memory_byte_size"}
    assert list(map(int, described["shape"])) == [1, 4]


def test_inputs_in_shared_memory_stand_among_others_in_any_order(wire, region):
    library, client = wire
    inputs = region(16)
    shared_memory.set_shared_memory_region(inputs.handle, [ROW])
    for tensors in (
        [placed(library, "a", [1, 4], inputs, 16), given(library, "b", ROW * 2)],
        [given(library, "b", ROW * 2), placed(library, "a", [1, 4], inputs, 16)],
    ):
        result = client.infer("add-sub", tensors)
        np.testing.assert_array_equal(result.as_numpy("difference"), -ROW)


def test_json_requests_use_shared_memory_as_well(served, http_client):
    at = Region(http_client, 32)
    shared_memory.set_shared_memory_region(at.handle, [ROW])
    tensor = placed(tritonclient.http, "x", [1, 4], at, 16)
    output = tritonclient.http.InferRequestedOutput("y", binary_data=False)
    output.set_shared_memory(at.name, 16, offset=16)
    result = http_client.infer("identity-fp32", [tensor], outputs=[output])
    np.testing.assert_array_equal(shared_memory.get_contents_as_numpy(at.handle, np.float32, [1, 4], offset=16), ROW)
    assert result.get_output("y")["parameters"] == {
        "shared_memory_region": at.name,
        "shared_memory_offset": 16,
        "shared_memory_byte_size": 16,
    }
    at.close()


def test_thirteen_megabytes_half_floats_and_strings_go_through_shared_memory(served, wire, region):
    library, client = wire
    images = np.random.default_rng(7).random((22, 150_528), np.float32)
    at = region(images.nbytes * 2)
    shared_memory.set_shared_memory_region(at.handle, [images])
    tensor = placed(library, "x", list(images.shape), at, images.nbytes)
    before = copied(served)
    client.infer("identity-fp32", [tensor], outputs=[wanted(library, "y", at, images.nbytes, offset=images.nbytes)])
    more = {why: bytes_ - before.get(why, 0) for why, bytes_ in copied(served).items()}
    assert more.pop("shared") == 2 * images.nbytes and sum(more.values()) < 4096, "once out of the region and once into it"
    found = shared_memory.get_contents_as_numpy(at.handle, np.float32, images.shape, offset=images.nbytes)
    np.testing.assert_array_equal(found, images)

    halves = ROW.astype(np.float16)
    shared_memory.set_shared_memory_region(at.handle, [halves])
    tensor = placed(library, "x", [1, 4], at, 8, datatype="FP16")
    client.infer("identity-fp16", [tensor], outputs=[wanted(library, "y", at, 8, offset=8)])
    np.testing.assert_array_equal(shared_memory.get_contents_as_numpy(at.handle, np.float16, [1, 4], offset=8), halves)

    framed = b"\x03\0\0\0abc\x00\0\0\0"
    shared_memory.set_shared_memory_region(at.handle, [np.frombuffer(framed, np.uint8)])
    tensor = placed(library, "x", [1, 2], at, len(framed), datatype="BYTES")
    client.infer("identity-bytes", [tensor], outputs=[wanted(library, "y", at, 64, offset=64)])
    assert bytes(at.handle._mpsm_handle.buf[64 : 64 + len(framed)]) == framed


def test_regions_are_listed_and_forgotten(wire, region):
    _, client = wire
    one, other = region(64), region(32, offset=8)
    status = plain(client.get_system_shared_memory_status(other.name))
    entries = list(status["regions"].values()) if isinstance(status, dict) else status
    (entry,) = [{name: str(value) for name, value in entry.items()} for entry in entries]
    assert entry == {"name": other.name, "key": other.key, "offset": "8", "byte_size": "32"}
    client.unregister_system_shared_memory(one.name)
    with pytest.raises(InferenceServerException, match="Unable to find system shared memory region"):
        client.get_system_shared_memory_status(one.name)
    client.unregister_system_shared_memory()
    status = plain(client.get_system_shared_memory_status())
    assert not (status.get("regions") if isinstance(status, dict) else status)


@pytest.mark.parametrize(
    "key, byte_size, offset, words",
    [
        ("/kserved-nothing", 16, 0, "unable to open the shared memory object"),
        ("../etc/passwd", 16, 0, "names no shared memory object"),
        ("/..", 16, 0, "names no shared memory object"),
        ("KEY", 17, 0, "has 16 bytes, 17 are needed"),
        ("KEY", 16, 1, "has 16 bytes, 17 are needed"),
        ("KEY", 1, 2**64 - 1, "invalid offset"),
        ("KEY", 0, 0, "not between 1 and"),
        ("KEY", 2**40, 0, "not between 1 and"),
    ],
)
def test_a_region_that_is_not_there_is_refused(wire, key, byte_size, offset, words):
    _, client = wire
    handle = shared_memory.create_shared_memory_region("exact", f"/kserved-{uuid.uuid4().hex}", 16)
    try:
        os.truncate(f"/dev/shm{handle._shm_key}", 16)
        with pytest.raises(InferenceServerException, match=words):
            client.register_system_shared_memory("exact", key.replace("KEY", handle._shm_key), byte_size, offset)
    finally:
        shared_memory.destroy_shared_memory_region(handle)


def test_a_region_is_registered_once_and_only_so_many(wire, region):
    _, client = wire
    at = region(16)
    with pytest.raises(InferenceServerException, match="already in manager"):
        client.register_system_shared_memory(at.name, at.key, 16)
    more = [region(16) for _ in range(7)]
    assert len(more) == 7
    with pytest.raises(InferenceServerException, match="more than 8 shared memory regions"):
        client.register_system_shared_memory("ninth", at.key, 16)


@pytest.mark.parametrize(
    "byte_size, offset, words",
    [
        (16, 4096, "input `x`: shared memory region `.*`: invalid offset"),
        (2**62, 0, "more than 268435456 bytes"),
        (16, 2**63 - 1, "invalid offset"),
        (12, 0, "takes 16 bytes, found 12"),
        (-1, 0, "from 0 up"),
        (16, -1, "from 0 up"),
    ],
)
def test_an_input_past_its_region_is_refused_by_name(wire, region, byte_size, offset, words):
    library, client = wire
    at = region(64)
    with pytest.raises(InferenceServerException, match=words):
        client.infer("identity-fp32", [placed(library, "x", [1, 4], at, byte_size, offset)])


def test_outputs_that_do_not_fit_and_names_nobody_registered_are_refused(wire, region):
    library, client = wire
    at = region(64)
    shared_memory.set_shared_memory_region(at.handle, [ROW])
    tensor = placed(library, "x", [1, 4], at, 16)
    for byte_size, offset, words in [(15, 16, "should be at least 16 bytes"), (32, 48, "invalid offset")]:
        with pytest.raises(InferenceServerException, match=f"output `y`: .*{words}"):
            client.infer("identity-fp32", [tensor], outputs=[wanted(library, "y", at, byte_size, offset)])
    unknown = library.InferInput("x", [1, 4], "FP32")
    unknown.set_shared_memory("nobody", 16)
    with pytest.raises(InferenceServerException, match="input `x`: Unable to find shared memory region: 'nobody'"):
        client.infer("identity-fp32", [unknown])


def test_an_object_cut_short_after_it_was_registered_costs_an_answer_and_not_the_daemon(served, wire, region):
    library, client = wire
    at = region(1 << 20)
    os.truncate(f"/dev/shm{at.key}", 8)
    with pytest.raises(InferenceServerException, match="the shared memory object has 8 bytes, 16 are needed"):
        client.infer("identity-fp32", [placed(library, "x", [1, 4], at, 16)])
    with pytest.raises(InferenceServerException, match="output `y`: .*the shared memory object has 8 bytes"):
        client.infer("identity-fp32", [given(library, "x", ROW)], outputs=[wanted(library, "y", at, 16)])
    assert os.stat(f"/dev/shm{at.key}").st_size == 8
    assert client.is_server_live()


def test_gpu_memory_is_refused_clearly_and_there_is_none_to_forget(wire):
    _, client = wire
    client.unregister_cuda_shared_memory()
    status = plain(client.get_cuda_shared_memory_status())
    assert not (status.get("regions") if isinstance(status, dict) else status)
    with pytest.raises(InferenceServerException, match="CUDA shared memory is not served"):
        client.register_cuda_shared_memory("gpu", base64.b64encode(b"handle"), 0, 64)


def test_shared_memory_is_off_unless_asked_for(small):
    with tritonclient.http.InferenceServerClient(small.http) as client:
        for call in (client.get_system_shared_memory_status, client.unregister_system_shared_memory):
            with pytest.raises(InferenceServerException, match="shared memory is not served here"):
                call()
        unknown = tritonclient.http.InferInput("x", [1, 4], "FP32")
        unknown.set_shared_memory("region", 16)
        with pytest.raises(InferenceServerException, match="shared memory is not served here"):
            client.infer("mlp", [unknown])


def test_shared_memory_is_refused_where_the_network_can_call(daemon):
    arguments = ["--host", "0.0.0.0", "--set", "protocol.shared_memory.enabled=true"]
    arguments += ["--set", "protocol.allow_unauthenticated=true"]
    ended = subprocess.run([daemon.binary, "serve", *arguments], cwd=daemon.folder, capture_output=True, text=True, timeout=30)
    assert ended.returncode != 0 and "protocol.shared_memory.enabled" in ended.stderr


# Unix sockets


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost")
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def test_http_is_answered_over_a_unix_socket_of_this_users_own(served):
    path = served.folder / "http.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    connection = UnixConnection(path)
    for _ in range(2):
        connection.request("GET", "/v2/models/mlp")
        answer = connection.getresponse()
        assert answer.status == 200 and b'"name":"mlp"' in answer.read()
    connection.request("GET", "/v2", headers={"Origin": "https://evil.example"})
    assert connection.getresponse().status == 403
    connection.close()


def test_curl_reaches_the_unix_socket(served):
    command = ["curl", "-sS", "--unix-socket", served.folder / "http.sock", "http://localhost/v2/health/ready"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == '{"ready":true}'


@pytest.mark.parametrize("name", ["http.sock", "grpc.sock"])
def test_grpc_is_answered_over_both_unix_sockets(served, name):
    with tritonclient.grpc.InferenceServerClient(f"unix:{served.folder / name}") as client:
        result = client.infer("mlp", [given(tritonclient.grpc, "x", ROW)])
        assert result.as_numpy("probabilities").shape == (1, 3)


def test_a_dead_daemons_socket_is_taken_over_and_a_live_ones_is_not(daemon):
    daemon.add("mlp", FIXTURES / "mlp.onnx")
    path = daemon.folder / "http.sock"
    daemon.start("--http-unix", path)
    command = [daemon.binary, "serve", "--http-port", "0", "--grpc-port", "0", "--models", daemon.models, "--http-unix", path]
    second = subprocess.run(command, cwd=daemon.folder, capture_output=True, text=True, timeout=30)
    assert second.returncode != 0 and "another process listens there" in second.stderr
    daemon.process.kill()
    daemon.stop()
    assert path.exists()
    daemon.start("--http-unix", path)
    connection = UnixConnection(path)
    connection.request("GET", "/livez")
    assert connection.getresponse().status == 200
    connection.close()
    assert daemon.stop() == 0
    assert not path.exists()


# Large tensors


def test_thirteen_megabytes_go_over_grpc_both_ways(grpc_client):
    images = np.random.default_rng(7).random((22, 150_528), np.float32)
    result = grpc_client.infer("identity-fp32", [given(tritonclient.grpc, "x", images)])
    np.testing.assert_array_equal(result.as_numpy("y"), images)


@pytest.mark.parametrize("socket_file", [None, "http.sock"])
def test_json_is_answered_over_http2_without_tls_on_the_same_socket(served, socket_file):
    command = ["curl", "-sS", "--http2-prior-knowledge", "-w", " %{http_version}"]
    command += ["--unix-socket", served.folder / socket_file] if socket_file else []
    ended = subprocess.run([*command, f"http://{served.http}/v2/health/ready"], capture_output=True, text=True, check=True)
    assert ended.stdout == '{"ready":true} 2'
