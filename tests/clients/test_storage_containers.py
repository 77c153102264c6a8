"""Models from several places, and models that a ClusterStorageContainer's command fetches."""

import os
import shutil

import numpy as np
import pytest
from daemon import FIXTURES, Daemon, service

ALLOWED = "storage:\n  containers: {run_commands: true}\n"
NUMBERS = np.array([[1.5, -2.0]], np.float32)


def container(name, command, more="", formats='[{prefix: "hub://"}]'):
    return f"""apiVersion: serving.kserve.io/v1alpha1
kind: ClusterStorageContainer
metadata: {{name: {name}}}
spec:
  container: {{name: storage-initializer, image: none, command: {command}, env: [{{name: HUB, value: {FIXTURES}}}]}}
  supportedUriFormats: {formats}
{more}"""


@pytest.fixture
def daemon(tmp_path):
    running = Daemon(tmp_path)
    yield running
    running.stop()


def script(daemon, text):
    path = daemon.folder / "fetch.sh"
    path.write_text("#!/bin/sh\nset -e\n" + text)
    path.chmod(0o755)
    return f"[{path}]"


def answers(daemon):
    """Whether the model says what the fixture says."""
    metadata = daemon.client.get("/v2/models/iris").json()
    name, output = metadata["inputs"][0]["name"], metadata["outputs"][0]["name"]
    return daemon.client.infer_json("iris", {name: NUMBERS})[output].tolist() == NUMBERS.tolist()


def message(daemon, name):
    return (daemon.condition(name) or {}).get("message", "")


def test_a_command_fetches_a_scheme_of_its_own_once_and_the_model_is_served_offline_afterwards(daemon):
    counted = daemon.folder / "calls"
    command = script(daemon, f'echo "$1" >> {counted}\ncp "$HUB/identity_fp32.onnx" "$2/model.onnx"\n')
    daemon.write("hub.yaml", container("hub", command))
    daemon.write("iris.yaml", service("iris", "hub://flowers/iris"))
    daemon.start(config=ALLOWED)
    daemon.wait_ready("iris")
    assert answers(daemon)
    daemon.stop()
    daemon.write("hub.yaml", container("hub", command))
    daemon.start(config=ALLOWED)
    daemon.wait_ready("iris")
    assert counted.read_text() == "hub://flowers/iris\n"


def test_commands_are_off_unless_the_settings_allow_them(daemon):
    daemon.write("hub.yaml", container("hub", script(daemon, 'touch "$2/ran"\n')))
    daemon.write("iris.yaml", service("iris", "hub://flowers/iris"))
    daemon.start()
    daemon.wait_for(lambda: "storage.containers.run_commands" in message(daemon, "iris"), 30, "says which setting is missing")


def test_the_end_of_stderr_is_in_the_status_and_the_command_is_tried_again(daemon):
    daemon.write("hub.yaml", container("hub", script(daemon, f'[ -e {daemon.folder}/there ] || {{ echo "the hub is closed" >&2; exit 3; }}\ncp "$HUB/identity_fp32.onnx" "$2"\n')))
    daemon.write("iris.yaml", service("iris", "hub://flowers/iris"))
    daemon.start(config=ALLOWED)
    daemon.wait_for(lambda: "exit status: 3: the hub is closed" in message(daemon, "iris"), 30, "tells the failure")
    (daemon.folder / "there").touch()
    daemon.wait_ready("iris", within_s=60)


def test_how_much_a_command_has_brought_is_told_while_it_runs(daemon):
    go = daemon.folder / "go"
    command = script(daemon, f'head -c 3145728 /dev/zero > "$2/more"\nwhile [ ! -e {go} ]; do sleep 0.1; done\ncp "$HUB/identity_fp32.onnx" "$2/model.onnx"\n')
    daemon.write("hub.yaml", container("hub", command))
    daemon.write("iris.yaml", service("iris", "hub://flowers/iris"))
    daemon.start(config=ALLOWED, ready_within_s=0)

    def told():
        return (daemon.condition("iris", "PredictorReady") or {}).get("message", "")

    daemon.wait_for(lambda: "fetching the model: 3 MiB" in told(), 30, "tells how far it is")
    go.touch()
    daemon.wait_ready("iris")


def test_commands_are_one_of_the_schemes_that_must_be_allowed_where_some_are(daemon):
    daemon.write("hub.yaml", container("hub", script(daemon, 'cp "$HUB/identity_fp32.onnx" "$2/model.onnx"\n')))
    daemon.write("iris.yaml", service("iris", "hub://flowers/iris"))
    allowed = "storage:\n  allowed_schemes: [s3]\n  containers: {run_commands: true}\n"
    daemon.start(config=allowed)
    daemon.wait_for(lambda: "`storage.allowed_schemes` is `s3`, and this is `command`" in message(daemon, "iris"), 30, "says which setting forbids it")
    daemon.stop()
    daemon.start(config=allowed.replace("[s3]", "[s3, command]"))
    daemon.wait_ready("iris")


def test_a_service_that_goes_takes_its_command_and_all_it_started_along(daemon):
    daemon.write("hub.yaml", container("hub", script(daemon, f"sleep 1000 & echo $! > {daemon.folder}/child.new; mv {daemon.folder}/child.new {daemon.folder}/child; wait\n")))
    daemon.write("iris.yaml", service("iris", "hub://flowers/iris"))
    daemon.start(config=ALLOWED, ready_within_s=0)
    pid = int(daemon.wait_for(lambda: (daemon.folder / "child").is_file() and (daemon.folder / "child").read_text(), 30, "starts the command"))
    (daemon.models / "iris.yaml").unlink()

    def is_gone():
        try:
            state = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        return state == "Z"

    daemon.wait_for(is_gone, 30, "ends what the command started")


def test_a_container_without_a_command_lets_the_daemons_own_stores_fetch_and_one_that_is_disabled_nobody(daemon):
    daemon.write("default.yaml", container("default", "[]", formats='[{regex: "https?://(.+)/(.+)"}]'))
    daemon.write("image.yaml", container("image", "[]"))
    daemon.write("off.yaml", container("off", "[none]", more="disabled: true\n", formats='[{prefix: "other://"}]'))
    daemon.write("iris.yaml", service("iris", "hub://flowers/iris"))
    daemon.write("other.yaml", service("other", "other://flowers/iris"))
    daemon.start()
    daemon.wait_for(lambda: "images do not run here" in message(daemon, "iris"), 30, "says that images do not run")
    daemon.wait_for(lambda: "StorageURI not supported" in message(daemon, "other"), 30, "takes nothing of a disabled container")


def test_several_places_are_one_model(daemon):
    (daemon.models / "a").mkdir()
    (daemon.models / "b").mkdir()
    shutil.copyfile(FIXTURES / "identity_fp32.onnx", daemon.models / "a" / "model.onnx")
    (daemon.models / "b" / "labels.txt").write_text("setosa")
    text = service("iris", "gone").replace("      storageUri: gone\n", "")
    places = "    storageUris:\n    - {uri: a}\n    - {uri: b, mountPath: /mnt/models/more}\n"
    daemon.write("iris.yaml", text + places)
    daemon.start()
    daemon.wait_ready("iris")
    assert answers(daemon)
    (assembled,) = [entry for entry in (daemon.folder / "cache" / "assembled").iterdir()]
    assert os.readlink(assembled / "model" / "more" / "labels.txt") == str((daemon.models / "b" / "labels.txt").resolve())
    (daemon.models / "iris.yaml").unlink()
    daemon.wait_for(lambda: not assembled.exists(), 40, "removes the links")
