"""Requests that are wrong, hostile or broken off cost one answer at most, and the next caller does not notice."""

import gzip
import itertools
import json
import socket
import struct
import threading
import zlib

import grpc
import numpy as np
import oip
import pytest
import wire
from daemon import FIXTURES, Daemon
from tritonclient.grpc import service_pb2 as pb

INFER = "/v2/models/add-sub/infer"
ROW = np.array([[1, 2, 3, 4]], np.float32)
GOOD = {"a": ROW, "b": ROW}
STRICT = """
protocol:
  body_bytes_max: 1048576
  decoded_bytes_max: 2097152
  header_bytes_max: 16384
  header_read_timeout_s: 1
  body_read_timeout_s: 1
  connections_max: 256
  grpc_message_bytes_max: 1048576
"""


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """A daemon with small bounds and short patience."""
    daemon = Daemon(tmp_path_factory.mktemp("strict"))
    for name in ["add_sub", "identity_fp32", "identity_fp64", "identity_bytes", "identity_int8", "identity_uint64", "identity_bool", "slow"]:
        daemon.add(name.replace("_", "-"), FIXTURES / f"{name}.onnx")
    daemon.start(config=STRICT)
    yield daemon
    assert daemon.stop() == 0, daemon.tail()


@pytest.fixture(autouse=True)
def and_the_next_caller_is_served(strict):
    """After each test the daemon answers as if nothing had happened."""
    yield
    client = strict.new_client()
    for name in ("json", "binary", "grpc"):
        assert not oip.difference({"sum": ROW * 2, "difference": ROW * 0}, client.infer(name, "add-sub", GOOD))
    client.close()


def tensor(name="a", shape=(1, 4), datatype="FP32", data=(1, 2, 3, 4), **more):
    return {"name": name, "shape": list(shape), "datatype": datatype, "data": list(data), **more}


def infer(strict, body, path=INFER, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return strict.client.request("POST", path, content, {"content-type": "application/json", **headers})


def refused(answer, status=400, says=""):
    """The answer is an error of the protocol: the status, and a JSON object whose only key is `error`."""
    assert answer.status == status, answer
    assert list(answer.json()) == ["error"] and says in answer.json()["error"], answer
    return True


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"inputs":[{"data":[' + b"[" * 10])
def test_json_nested_very_deep_is_refused(strict, opening):
    assert refused(infer(strict, opening * 5000))


@pytest.mark.parametrize("shape", [[-1, 4], [1 << 62, 4], [1 << 32, 1 << 32], [3, 4], [4], [1, 4, 2]])
def test_a_shape_that_does_not_fit_the_data_is_refused(strict, shape):
    assert refused(infer(strict, {"inputs": [tensor(shape=shape), tensor("b")]}))


@pytest.mark.parametrize("length", ["1000000", "-1", "ten", "18446744073709551616", "", "1e2", "0x10"])
def test_a_wrong_header_length_is_refused(strict, length):
    body, headers = oip.binary_request(GOOD)
    assert refused(strict.client.request("POST", INFER, body, {**headers, "inference-header-content-length": length}))


@pytest.mark.parametrize("change", [lambda body: body[:-1], lambda body: body + b"\0"])
def test_a_byte_too_many_or_too_few_is_refused(strict, change):
    body, headers = oip.binary_request(GOOD)
    assert refused(strict.client.request("POST", INFER, change(body), headers))


@pytest.mark.parametrize("content", [b"\x05\0\0\0ab", b"\xff\xff\xff\xff", b"\0\0", b"\1\0\0\0a" * 2])
def test_a_length_inside_bytes_that_points_past_the_end_is_refused(strict, content):
    message = json.dumps(
        {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(content)}}]}
    ).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(message))}
    assert refused(strict.client.request("POST", "/v2/models/identity-bytes/infer", message + content, headers))


def test_names_that_repeat_miss_or_are_unknown_are_refused(strict):
    assert refused(infer(strict, {"inputs": [tensor("a"), tensor("a"), tensor("b")]}), says="a")
    assert refused(infer(strict, {"inputs": [tensor("a")]}), says="b")
    assert refused(infer(strict, {"inputs": [tensor("a"), tensor("b"), tensor("c")]}), says="c")
    both = [tensor("a"), tensor("b")]
    assert refused(infer(strict, {"inputs": both, "outputs": [{"name": "product"}]}), says="product")
    assert refused(infer(strict, {"inputs": both, "outputs": [{"name": "sum"}, {"name": "sum"}]}), says="sum")


def test_a_parameter_that_is_the_servers_own_is_refused_by_name(strict):
    both = {"inputs": [tensor("a"), tensor("b")]}
    assert refused(infer(strict, {**both, "parameters": {"triton_final_response": True}}), says="triton_final_response")
    assert infer(strict, {**both, "parameters": {"mine": "x", "triton_enable_empty_final_response": True}}).status == 200


@pytest.mark.parametrize(
    ("model", "datatype", "value"),
    [
        ("identity-int8", "INT8", "300"),
        ("identity-int8", "INT8", "-129"),
        ("identity-int8", "INT8", "1.5"),
        ("identity-uint64", "UINT64", "-1"),
        ("identity-uint64", "UINT64", "18446744073709551616"),
        ("identity-fp32", "FP32", "1e400"),
        ("identity-fp32", "FP32", "NaN"),
        ("identity-fp32", "FP32", "Infinity"),
        ("identity-fp32", "FP32", '"1"'),
        ("identity-fp32", "FP32", "null"),
        ("identity-bool", "BOOL", "2"),
        ("identity-bytes", "BYTES", "1"),
    ],
)
def test_a_value_the_datatype_cannot_hold_is_refused(strict, model, datatype, value):
    body = f'{{"inputs":[{{"name":"x","shape":[1,1],"datatype":"{datatype}","data":[{value}]}}]}}'.encode()
    assert refused(infer(strict, body, f"/v2/models/{model}/infer"))


@pytest.mark.parametrize(
    ("model", "datatype", "value"),
    [
        ("identity-uint64", "UINT64", "18446744073709551615"),
        ("identity-fp32", "FP32", "1e-45"),
        ("identity-fp32", "FP32", "-0.0"),
        ("identity-fp32", "FP32", "3.4028234663852886e38"),
    ],
)
def test_a_value_at_the_edge_comes_back_exactly(strict, model, datatype, value):
    body = f'{{"inputs":[{{"name":"x","shape":[1,1],"datatype":"{datatype}","data":[{value}]}}]}}'.encode()
    answer = infer(strict, body, f"/v2/models/{model}/infer")
    assert answer.status == 200, answer
    found = oip.from_listed(answer.json()["outputs"][0])
    assert oip.same(np.array([[json.loads(value)]], dtype=oip.DTYPES[datatype]), found)


def test_a_body_over_the_bound_is_refused_before_it_is_read(strict):
    body = b" " * (2 << 20)
    found = wire.talk(strict.ports["http"], wire.post(INFER, body))
    assert wire.status(found) == 413
    chunks = b"".join(b"10000\r\n" + b" " * 65536 + b"\r\n" for _ in range(64)) + b"0\r\n\r\n"
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    assert wire.status(wire.talk(strict.ports["http"], head, chunks)) == 413


def test_a_small_text_that_becomes_a_large_tensor_is_refused(strict):
    """Half a million zeros are 1 MB of JSON and 4 MB of FP64."""
    zeros = b'{"inputs":[{"name":"x","shape":[1,500000],"datatype":"FP64","data":[' + b"0," * 499_999 + b"0]}]}"
    assert len(zeros) < 1 << 20
    assert refused(infer(strict, zeros, "/v2/models/identity-fp64/infer"), 413)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_bomb_is_refused(strict, encoding):
    bomb = b"[" + b" " * (64 << 20)
    packed = gzip.compress(bomb) if encoding == "gzip" else zlib.compress(bomb)
    assert len(packed) < 1 << 20
    before = strict.rss_mib()
    for _ in range(4):
        assert infer(strict, packed, **{"content-encoding": encoding}).status == 413
    assert strict.rss_mib() - before < 64


def test_broken_or_unknown_encodings_are_refused(strict):
    assert refused(infer(strict, b"\x1f\x8b\x08 not gzip", **{"content-encoding": "gzip"}))
    assert infer(strict, b"{}", **{"content-encoding": "lzma"}).status == 415


def test_a_body_of_one_byte_chunks_costs_no_memory(strict):
    text = json.dumps({"inputs": [tensor("a"), tensor("b")]}).encode()
    padded = text[:-1] + b" " * 300_000 + b"}"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in padded) + b"0\r\n\r\n"
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    before = strict.rss_mib()
    found = wire.talk(strict.ports["http"], head, chunks)
    assert wire.status(found) in (200, 408, 413), found
    assert strict.rss_mib() - before < 64


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e%2fsecret", "iris%00", "%ff%fe", "a" * 5000, "iris%0d%0aX-Evil:1", "no/such", "%"]
)
def test_a_hostile_model_name_is_only_unknown(strict, name):
    head = f"GET /v2/models/{name} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    found = wire.talk(strict.ports["http"], head)
    assert wire.status(found) in (400, 404), found
    assert b"\r\nx-evil" not in found.lower()


def test_text_that_is_no_utf8_is_refused(strict):
    assert refused(infer(strict, b'{"inputs":[{"name":"\xff\xfe","shape":[1],"datatype":"FP32","data":[1]}]}'))


def test_a_head_that_never_ends_is_cut_off(strict):
    with wire.connected(strict.ports["http"]) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: loc")
        assert wire.seconds_until_closed(connection) < 10


def test_a_body_that_trickles_in_is_cut_off(strict):
    with wire.connected(strict.ports["http"]) as connection:
        connection.sendall(wire.post(INFER, b"x" * 1000)[:-990])
        found = wire.received(connection)
        assert wire.status(found) in (0, 408), found


def test_a_caller_who_waits_for_100_and_never_sends_is_cut_off(strict):
    with wire.connected(strict.ports["http"]) as connection:
        connection.sendall(wire.post(INFER, b"x" * 1000, "Expect: 100-continue")[:-1000])
        assert wire.seconds_until_closed(connection) < 10


def test_a_caller_who_closed_his_half_is_answered_or_let_go_and_the_next_one_is_served(strict):
    # To the server an end of the stream looks the same whether its sender still reads or is gone.
    request = wire.post(INFER, json.dumps({"inputs": [tensor("a"), tensor("b")]}).encode())
    assert wire.status(wire.talk(strict.ports["http"], request, half_close=True)) in (0, 200)
    assert wire.status(wire.talk(strict.ports["http"], request)) == 200


def test_callers_who_hang_up_leave_nothing_behind(strict):
    strict.client.get("/livez")
    before = strict.open_files()
    request = wire.post(INFER, json.dumps({"inputs": [tensor("a"), tensor("b")]}).encode())
    for cut in itertools.islice(itertools.cycle([1, 20, 80, len(request) // 2, len(request) - 1, len(request)]), 120):
        with wire.connected(strict.ports["http"]) as connection:
            connection.sendall(request[:cut])
            # A reset instead of a polite end.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    strict.wait_for(lambda: strict.open_files() <= before + 2, 20, "forgets connections that are gone")


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 6\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 6",
        "Content-Length: 6\r\nContent-Length: 5",
        "Content-Length: +6",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
    ],
)
def test_a_request_with_two_lengths_is_never_read_as_two_requests(strict, framing):
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n".encode()
    smuggled = b"0\r\n\r\nGET /v2/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with wire.connected(strict.ports["http"], timeout_s=5) as connection:
        connection.sendall(head + smuggled)
        found = b""
        try:
            while piece := connection.recv(65536):
                found += piece
        except OSError:
            pass
    assert found.count(b"HTTP/1.1 ") <= 1, found
    assert b"smuggled" not in found


@pytest.mark.parametrize("headers", [["X-Long: " + "a" * 100_000], [f"X-{index}: 1" for index in range(5000)]])
def test_a_head_full_of_headers_is_refused(strict, headers):
    found = wire.talk(strict.ports["http"], wire.post("/livez", b"", *headers))
    assert wire.status(found) in (0, 400, 431), found[:200]


def test_bytes_that_are_no_http_are_refused(strict):
    for noise in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200 + b"\r\n\r\n", b"\0" * 4096 + b"\r\n\r\n"):
        assert wire.status(wire.talk(strict.ports["http"], noise, half_close=True)) in (0, 400)


def grpc_request(**inputs):
    request = oip.grpc_request("add-sub", inputs)
    request.raw_input_contents.extend(map(oip.raw, inputs.values()))
    return request


def code_of(strict, request):
    with pytest.raises(grpc.RpcError) as failed:
        strict.client.stub.ModelInfer(request, timeout=30)
    return failed.value.code()


def test_a_grpc_message_over_the_bound_is_refused(strict):
    wide = np.zeros((1 << 17, 4), np.float32)
    assert code_of(strict, grpc_request(a=wide, b=wide)) in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE)


def test_ten_thousand_calls_at_once_on_one_connection_are_all_answered(strict):
    calls = [strict.client.stub.ModelInfer.future(grpc_request(**GOOD), timeout=120) for _ in range(10_000)]
    assert all(call.result().model_name == "add-sub" for call in calls)


def test_raw_and_typed_contents_together_are_refused(strict):
    request = grpc_request(**GOOD)
    request.inputs[0].contents.fp32_contents.extend([1, 2, 3, 4])
    assert code_of(strict, request) == grpc.StatusCode.INVALID_ARGUMENT


def test_grpc_contents_that_do_not_fit_are_refused(strict):
    for change in (
        lambda request: request.raw_input_contents.pop(),
        lambda request: request.raw_input_contents.append(b""),
        lambda request: request.inputs[0].shape.append(3),
        lambda request: setattr(request.inputs[0], "datatype", "FP99"),
        lambda request: setattr(request.inputs[0], "name", "z"),
    ):
        request = grpc_request(**GOOD)
        change(request)
        assert code_of(strict, request) == grpc.StatusCode.INVALID_ARGUMENT
    wrong_field = pb.ModelInferRequest(model_name="add-sub")
    for name in "ab":
        added = wrong_field.inputs.add(name=name, datatype="FP32", shape=[1, 4])
        added.contents.int64_contents.extend([1, 2, 3, 4])
    assert code_of(strict, wrong_field) == grpc.StatusCode.INVALID_ARGUMENT


def test_bytes_that_are_no_protobuf_are_refused(strict):
    call = strict.client.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.RpcError) as failed:
        call(b"\xff" * 100, timeout=30)
    assert failed.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT)


def test_cancelled_grpc_calls_leave_nothing_behind(strict):
    request = oip.grpc_request("slow", {"iterations": np.array([2000], np.int64)})
    request.raw_input_contents.append(oip.raw(np.array([2000], np.int64)))
    for _ in range(50):
        strict.client.stub.ModelInfer.future(request, timeout=30).cancel()
    client = strict.new_client()
    assert client.infer("grpc", "slow", {"iterations": np.array([1], np.int64)})["y"].shape == (1,)
    client.close()


def test_idle_connections_hold_nobody_up(strict):
    idle = [socket.create_connection(("127.0.0.1", strict.ports["http"])) for _ in range(200)]
    try:
        client = strict.new_client()
        assert client.get("/livez").status == 200
        client.close()
    finally:
        for connection in idle:
            connection.close()


def test_names_nobody_serves_make_no_metric_labels(strict):
    for index in range(50):
        assert strict.client.get(f"/v2/models/nobody-{index}/ready").status == 404
        infer(strict, b"{}", f"/v2/models/nobody-{index}/infer")
    assert b"nobody-" not in strict.client.get("/metrics").body


@pytest.mark.parametrize("host", ["evil.test", "127.0.0.1.evil.test", "iris.default.example.com.evil.test"])
def test_a_page_that_rebinds_its_name_to_this_machine_is_refused(strict, host):
    found = wire.talk(strict.ports["http"], f"GET /v2 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert wire.status(found) in (403, 421), found


def test_a_foreign_page_cannot_post(strict):
    body = json.dumps({"inputs": [tensor("a"), tensor("b")]}).encode()
    request = wire.post(INFER, body, "Origin: http://evil.test", content_type="text/plain")
    assert wire.status(wire.talk(strict.ports["http"], request)) == 403


def test_a_full_queue_refuses_at_once_and_says_when_to_come_again(tmp_path):
    daemon = Daemon(tmp_path)
    daemon.add("slow", FIXTURES / "slow.onnx")
    daemon.start(config="pool:\n  workers_max: 1\n  queue_max: 1\n")
    body = json.dumps({"inputs": [tensor("iterations", [1], "INT64", [20000])]}).encode()
    answers = []

    def ask():
        client = daemon.new_client()
        answers.append(client.request("POST", "/v2/models/slow/infer", body, {"content-type": "application/json"}))
        client.close()

    callers = [threading.Thread(target=ask) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    statuses = sorted(answer.status for answer in answers)
    assert set(statuses) == {200, 503}, statuses
    assert all("retry-after" in answer.headers for answer in answers if answer.status == 503)
    assert daemon.stop() == 0


def test_an_open_address_without_a_key_is_refused_at_start(tmp_path):
    daemon = Daemon(tmp_path)
    with pytest.raises(AssertionError, match="kserved ended with 2"):
        daemon.start("--host", "0.0.0.0")
    assert "hint:" in daemon.tail() and "api_key" in daemon.tail()
