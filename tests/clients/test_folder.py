"""What happens to files happens to models: saved, broken, deleted, renamed and flipped while callers keep calling."""

import json
import os
import signal
import threading
import time

import numpy as np
import oip
import pytest
from daemon import FIXTURES, ROOT, service

IRIS = ROOT / "models" / "iris" / "model.onnx"
MLP = FIXTURES / "mlp.onnx"
FLOWER = {"measurements": np.array([[5.1, 3.5, 1.4, 0.2]], np.float32)}


def species(daemon, name="iris"):
    return daemon.client.infer("json", name, FLOWER)["species"][0]


def test_an_empty_folder_is_ready_at_once(daemon):
    daemon.start()
    assert daemon.client.get("/v2/models/iris/ready").status == 404


def test_a_saved_file_is_served(daemon):
    daemon.start()
    daemon.add("iris", IRIS)
    daemon.wait_ready("iris")
    assert species(daemon) == b"setosa"


def test_a_deleted_file_is_unloaded_and_a_restored_one_comes_back(daemon):
    daemon.add("iris", IRIS)
    daemon.start()
    manifest = daemon.models / "iris.yaml"
    text = manifest.read_text()
    manifest.unlink()
    daemon.wait_for(lambda: daemon.client.get("/v2/models/iris").status == 404, 20, "forgets iris")
    daemon.write("iris.yaml", text)
    daemon.wait_ready("iris")
    assert species(daemon) == b"setosa"


@pytest.mark.parametrize(
    "broken",
    [
        "spec: [",
        "{{{ not yaml",
        service("iris", "iris/model.onnx").replace("predictor", "predicto"),
        service("iris", "iris/missing.onnx"),
        service("Iris", "iris/model.onnx"),
        "",
        service("iris", "iris/model.onnx")[:60],
    ],
)
def test_a_broken_edit_keeps_the_last_good_model_serving(daemon, broken):
    daemon.add("iris", IRIS)
    daemon.start()
    good = (daemon.models / "iris.yaml").read_text()
    (daemon.models / "iris.yaml").write_text(broken)
    # A second service is served, so the broken file has been looked at.
    daemon.add("witness", MLP)
    daemon.wait_ready("witness")
    assert species(daemon) == b"setosa"
    daemon.write("iris.yaml", good)
    daemon.wait_ready("iris")
    assert species(daemon) == b"setosa"


def test_a_broken_model_file_never_takes_the_good_one_away(daemon):
    daemon.add("iris", IRIS)
    daemon.start()
    broken = daemon.models / "iris" / "broken.onnx"
    for content in (b"", b"<html>404</html>", IRIS.read_bytes()[:400]):
        broken.write_bytes(content)
        daemon.write("iris.yaml", service("iris", "iris/broken.onnx"))
        daemon.wait_for(lambda: failure(daemon, "iris"), 20, "reports the failed load")
        assert species(daemon) == b"setosa"
        daemon.write("iris.yaml", service("iris", "iris/model.onnx"))
        daemon.wait_for(lambda: not failure(daemon, "iris"), 20, "recovers")


def failure(daemon, name):
    status = (daemon.resource(name) or {}).get("status", {}).get("modelStatus", {})
    return status.get("transitionStatus") == "BlockedByFailedLoad" and status.get("lastFailureInfo")


def test_a_broken_model_does_not_hide_the_good_ones(daemon):
    daemon.add("iris", IRIS)
    daemon.add("broken", __file__)
    daemon.start()
    daemon.wait_ready("iris")
    assert daemon.client.get("/v2/models/broken/ready").status == 503
    assert daemon.condition("broken")["status"] == "False"


def test_two_files_claiming_one_name_are_both_named(daemon):
    daemon.add("iris", IRIS)
    daemon.start()
    daemon.write("second.yaml", service("iris", "iris/model.onnx"))
    named = daemon.wait_for(lambda: events(daemon), 20, "tells of the second file")
    assert "second.yaml" in named and "iris.yaml" in named
    assert species(daemon) == b"setosa"


def events(daemon):
    """What `kserved get events` would show."""
    listed = daemon.client.get("/api/v1/namespaces/default/events").json()["items"]
    return "\n".join(event["message"] for event in listed)


def test_a_folder_of_links_flipped_like_a_configmap_is_followed(daemon):
    """Kubernetes mounts a ConfigMap as links through `..data`, and changes all files by renaming that one link."""
    config = daemon.models / "config"
    for version, model in (("one", MLP), ("two", IRIS)):
        folder = config / f"..{version}"
        folder.mkdir(parents=True)
        (folder / "model.yaml").write_text(service("flipped", str(model)))
    (config / "..data").symlink_to("..one")
    (config / "model.yaml").symlink_to("..data/model.yaml")
    daemon.start()
    daemon.wait_ready("flipped")
    (config / "..data_tmp").symlink_to("..two")
    os.replace(config / "..data_tmp", config / "..data")
    daemon.wait_for(lambda: daemon.client.get("/v2/models/flipped").json()["inputs"][0]["name"] == "measurements", 20, "flips")


def test_nested_folders_lists_and_many_documents_are_read(daemon):
    deep = daemon.models / "team" / "flowers"
    deep.mkdir(parents=True)
    documents = [service("one", str(IRIS)), "# nothing here\n", service("two", str(IRIS))]
    (deep / "many.yml").write_text("---\n".join(documents))
    items = [
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": name},
            "spec": {"predictor": {"model": {"modelFormat": {"name": "onnx"}, "protocolVersion": "v2", "storageUri": str(MLP)}}},
        }
        for name in ("three", "four")
    ]
    (deep / "list.yaml").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    daemon.start()
    for name in ("one", "two", "three", "four"):
        daemon.wait_ready(name)


def test_files_that_editors_leave_are_not_read(daemon):
    daemon.add("iris", IRIS)
    text = service("ghost", "iris/model.onnx")
    for name in (".iris.yaml.swp", "iris.yaml~", "#iris.yaml#", ".#iris.yaml", "4913", "iris.yaml.bak", "iris.yaml.tmp"):
        (daemon.models / name).write_text(text)
    daemon.start()
    assert daemon.client.get("/v2/models/ghost").status == 404


def test_a_model_is_swapped_under_load_without_one_failed_answer(daemon):
    """Every answer comes whole from one of the two models, and none fails."""
    daemon.write("swapped.yaml", service("swapped", str(FIXTURES / "identity_fp32.onnx")))
    daemon.start()
    stop, wrong, counted = threading.Event(), [], []

    def call():
        client, inputs = daemon.new_client(), {"x": np.ones((1, 4), np.float32)}
        while not stop.is_set():
            try:
                names = set(client.infer("json", "swapped", inputs))
                counted.append(1)
                if names not in ({"y"}, {"probabilities"}):
                    wrong.append(names)
            except Exception as error:
                wrong.append(repr(error))
        client.close()

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for round_ in range(10):
        model, output = ((MLP, "probabilities"), (FIXTURES / "identity_fp32.onnx", "y"))[round_ % 2]
        daemon.write("swapped.yaml", service("swapped", str(model)))
        daemon.wait_for(lambda: daemon.client.get("/v2/models/swapped").json()["outputs"][0]["name"] == output, 20, "swaps")
    stop.set()
    for caller in callers:
        caller.join()
    assert not wrong, wrong[:5]
    assert len(counted) > 10


def test_namespaces_never_mix(daemon):
    daemon.write("one.yaml", service("same", str(IRIS), namespace="one"))
    daemon.write("two.yaml", service("same", str(MLP), namespace="two"))
    daemon.start()
    for namespace, name in (("one", "measurements"), ("two", "x")):
        by_host = daemon.client.request("GET", "/v2/models/same", headers={"host": f"same.{namespace}.example.com"})
        by_path = daemon.client.get(f"/serving/{namespace}/same/v2/models/same")
        assert by_host.json()["inputs"][0]["name"] == by_path.json()["inputs"][0]["name"] == name


def test_revisions_are_numbered_as_knative_does(daemon):
    daemon.add("iris", IRIS)
    daemon.start()
    daemon.wait_ready("iris")
    component = daemon.resource("iris")["status"]["components"]["predictor"]
    assert component["latestReadyRevision"] == "iris-predictor-00001"
    daemon.write("iris.yaml", service("iris", str(IRIS)))
    daemon.wait_for(
        lambda: daemon.resource("iris")["status"]["components"]["predictor"]["latestReadyRevision"] == "iris-predictor-00002",
        20,
        "has a second revision",
    )


def test_a_request_in_flight_is_finished_at_the_end(daemon):
    daemon.add("slow", FIXTURES / "slow.onnx")
    daemon.start()
    answers = []

    def ask():
        client = daemon.new_client()
        answers.append(client.infer("json", "slow", {"iterations": np.array([20000], np.int64)}))
        client.close()

    caller = threading.Thread(target=ask)
    caller.start()
    daemon.wait_for(lambda: in_flight(daemon), 10, "runs the request")
    daemon.process.send_signal(signal.SIGTERM)
    caller.join()
    assert len(answers) == 1 and answers[0]["y"].shape == (1,)
    assert daemon.process.wait(20) == 0, "one signal is enough"


def in_flight(daemon):
    """Whether the model's thread has burnt time since the start."""
    before = daemon.cpu_s()
    time.sleep(0.05)
    return daemon.cpu_s() > before


def test_a_second_signal_ends_at_once(daemon):
    daemon.add("slow", FIXTURES / "slow.onnx")
    daemon.start()
    client = daemon.new_client()
    request = oip.grpc_request("slow", {"iterations": np.array([400000], np.int64)})
    request.raw_input_contents.append(oip.raw(np.array([400000], np.int64)))
    call = client.stub.ModelInfer.future(request, timeout=60)
    daemon.wait_for(lambda: in_flight(daemon), 10, "runs the request")
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_for(lambda: "ending" in daemon.tail(), 5, "says it ends")
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(10) != 0
    call.cancel()
    client.close()
