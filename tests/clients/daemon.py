"""The real kserved binary as a child process: its folders, its ports, its memory, its end."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

import oip

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FIXTURES = ROOT / "tests" / "fixtures" / "models"
BINARY = pathlib.Path(os.environ.get("KSERVED_BIN") or ROOT / "target" / "debug" / "kserved")


def service(name, storage_uri, namespace=None, runtime=None, protocol="v2"):
    """An InferenceService manifest of an ONNX model."""
    lines = ["apiVersion: serving.kserve.io/v1beta1", "kind: InferenceService", "metadata:", f"  name: {name}"]
    lines += [f"  namespace: {namespace}"] if namespace else []
    lines += ["spec:", "  predictor:", "    model:", "      modelFormat:", "        name: onnx"]
    lines += [f"      runtime: {runtime}"] if runtime else []
    lines += [f"      protocolVersion: {protocol}", f"      storageUri: {storage_uri}", ""]
    return "\n".join(lines)


def of_format(name, model_format, storage_uri):
    """An InferenceService manifest of a model of any format, as JSON, which is YAML too."""
    model = {"modelFormat": {"name": model_format}, "storageUri": storage_uri, "protocolVersion": "v2"}
    spec = {"predictor": {"model": model}}
    return json.dumps({"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": name}, "spec": spec})


def free_port():
    """A port of this machine that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def hugging_face(name, storage_uri, *args):
    """An InferenceService manifest of a Hugging Face folder; `args` go to KServe's server."""
    lines = ["apiVersion: serving.kserve.io/v1beta1", "kind: InferenceService", "metadata:", f"  name: {name}"]
    lines += ["spec:", "  predictor:", "    model:", "      modelFormat: {name: huggingface}", f"      storageUri: {storage_uri}"]
    lines += [f"      args: {json.dumps(args)}", ""]
    return "\n".join(lines)


class Daemon:
    """A running kserved over a folder of its own; `models` is watched."""

    def __init__(self, folder, binary=BINARY):
        self.folder = pathlib.Path(folder)
        self.models = self.folder / "models"
        self.models.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / "kserved.log"
        self.binary = binary
        self.process = None
        self.ports = {}
        self.clients = []

    def add(self, name, model, **settings):
        """Puts a model and its InferenceService into the watched folder, the manifest last and at once."""
        if model is not None:
            target = self.models / name / "model.onnx"
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(model, target)
        self.write(f"{name}.yaml", service(name, f"{name}/model.onnx", **settings))

    def write(self, name, text):
        """Writes a manifest by renaming it into place."""
        partial = self.models / f".{name}.partial"
        partial.write_text(text)
        partial.replace(self.models / name)

    def start(self, *arguments, config="", ready_within_s=60, environment=None):
        """Starts the daemon on free ports; returns the seconds until `/readyz` said yes."""
        settings = self.folder / "config.yaml"
        settings.write_text(config or "# every default\n")
        ports = self.folder / "ports.json"
        ports.unlink(missing_ok=True)
        command = [self.binary, "serve", "--config", settings, "--models", self.models, "--runtimes", ROOT / "runtimes"]
        command += ["--cache", self.folder / "cache", "--http-port", "0", "--grpc-port", "0", "--ports-file", ports, *arguments]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("KSERVED_")}
        environment = clean | (environment or {})
        began = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, env=environment)
        self.wait_for(lambda: ports.is_file() and ports.read_text().strip(), 30, "writes its ports")
        self.ports = json.loads(ports.read_text())
        if ready_within_s:
            self.wait_for(lambda: self.client.get("/readyz").status == 200, ready_within_s, "is ready")
        return time.monotonic() - began

    def wait_for(self, condition, within_s, what):
        """Asks `condition` again and again until it holds; gives what it gave."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                if found := condition():
                    return found
            except (OSError, oip.http.client.HTTPException):
                pass
            if self.process.poll() is not None:
                raise AssertionError(f"kserved ended with {self.process.returncode} before it {what}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"kserved did not get there in {within_s} s: {what}\n{self.tail()}")
            time.sleep(0.01)

    def tail(self):
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    @property
    def client(self):
        """A client for the test's own thread."""
        if not self.clients:
            self.clients.append(self.new_client())
        return self.clients[0]

    def new_client(self):
        return oip.Client(self.ports["http"], self.ports["grpc"])

    @property
    def http(self):
        return f"127.0.0.1:{self.ports['http']}"

    @property
    def grpc(self):
        return f"127.0.0.1:{self.ports['grpc']}"

    def resource(self, name, namespace="default"):
        """The InferenceService with its status, as JSON."""
        path = f"/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices/{name}"
        answer = self.client.get(path)
        return answer.json() if answer.status == 200 else None

    def condition(self, name, kind="Ready", namespace="default"):
        """The named condition of a service, or nothing."""
        found = self.resource(name, namespace) or {}
        conditions = found.get("status", {}).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == kind), None)

    def is_ready(self, name, namespace="default"):
        return (self.condition(name, namespace=namespace) or {}).get("status") == "True"

    def wait_ready(self, name, within_s=30, namespace="default"):
        self.wait_for(lambda: self.is_ready(name, namespace), within_s, f"InferenceService/{namespace}/{name} is Ready")

    def rss_mib(self):
        """Resident memory."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024

    def cpu_s(self):
        """Processor seconds used so far."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def open_files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self, within_s=40):
        """Asks the daemon to end and gives its exit code."""
        for client in self.clients:
            client.close()
        self.clients = []
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"kserved did not end in {within_s} s\n{self.tail()}") from None
