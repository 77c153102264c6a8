"""Measures serving: in-process ONNX Runtime, an echo server on the same stack, kserved, and the KServe Python SDK.

Run: make bench    (BENCH_ARGS=--quick for a short run)

One machine, one run, one load generator (h2load, which shares the cores). Every server is asked once over every wire
and its answer compared with ONNX Runtime's before it is measured. The tables go between the marks in BENCHMARKS.md.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "clients"))

import daemon as kserved  # noqa: E402
import goals  # noqa: E402
import load  # noqa: E402
import make_models  # noqa: E402
import numpy as np  # noqa: E402
import oip  # noqa: E402
import onnxruntime  # noqa: E402

WIRES = ["json", "binary", "grpc"]
CALLERS = [1, 8, 32]
BEGIN, END = "<!-- serving: begin -->", "<!-- serving: end -->"


def main():
    options = arguments()
    if shutil.which("h2load") is None:
        sys.exit("error: h2load was not found\n\nhint: it comes with nghttp2 (Debian: `apt install nghttp2-client`)")
    with tempfile.TemporaryDirectory(prefix="kserved-bench-") as folder:
        bench = Bench(pathlib.Path(folder), options)
        bench.run()
    results = ROOT / "target" / "bench" / "serving.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(bench.results, indent=1))
    write(options.output, report(bench.results, options))
    print(f"written: {options.output}, {results}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kserved", type=pathlib.Path, default=ROOT / "target" / "release" / "kserved")
    parser.add_argument("--echo", type=pathlib.Path, default=ROOT / "target" / "release" / "examples" / "echo")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "BENCHMARKS.md")
    parser.add_argument("--quick", action="store_true", help="windows of half a second: to see that it runs")
    parser.add_argument("--without", action="append", default=[], choices=["echo", "kserved", "kserve-sdk", "mlserver"])
    parser.add_argument("--mlserver", type=pathlib.Path, help="the Python of MLServer's environment, to measure it too")
    options = parser.parse_args()
    options.kserved, options.echo = options.kserved.resolve(), options.echo.resolve()
    return options


class Bench:
    """One run; `results` is a plain tree of numbers."""

    def __init__(self, folder, options):
        self.folder, self.options = folder, options
        self.windows_s = {"mlp": 0.5, "resnet18": 1} if options.quick else {"mlp": 1, "resnet18": 2}
        self.rounds = 1 if options.quick else 3
        self.results = {"machine": machine(), "in_process": [], "servers": [], "load": [], "daemon": {}, "half": [], "half_load": {}}
        self.models = folder / "onnx"
        self.models.mkdir()
        self.inputs = make_models.make(self.models)
        self.expected = {model: in_process_answer(self.models / f"{model}.onnx", inputs) for model, inputs in self.inputs.items()}
        self.requests = {(model, wire): self.prepare(model, wire) for model in self.inputs for wire in WIRES}

    def run(self):
        self.measure_in_process()
        if "kserved" not in self.options.without:
            self.measure_daemon()
        servers = [Kserved(self), Echo(self), Sdk(self)] + ([Mlserver(self)] if self.options.mlserver else [])
        self.measure([server for server in servers if server.name not in self.options.without])

    def prepare(self, model, wire):
        """The file with a request's body, and its headers."""
        inputs, path = self.inputs[model], self.folder / f"{model}.{wire}.request"
        if wire == "json":
            body = {"inputs": [{**oip.head(name, array), "data": shortest(array)} for name, array in inputs.items()]}
            content, headers = json.dumps(body, separators=(",", ":")).encode(), {"content-type": "application/json"}
        elif wire == "binary":
            content, headers = oip.binary_request(inputs)
        else:
            request = oip.grpc_request(model, inputs)
            request.raw_input_contents.extend(map(oip.raw, inputs.values()))
            message = request.SerializeToString()
            content = b"\0" + len(message).to_bytes(4, "big") + message
            headers = {"content-type": "application/grpc", "te": "trailers"}
        path.write_bytes(content)
        return path, headers

    def measure_in_process(self):
        self.best = {}
        for model, inputs in self.inputs.items():
            np.save(self.folder / f"{model}.npy", inputs["input"])
            found = {form: self.in_process(model, *form) for form in [(1, 1), (2, 1), (1, 2)]}
            self.best[model] = max(found, key=lambda form: found[form]["per_s"])
            for (callers, threads), one in found.items():
                self.results["in_process"].append({"model": model, "callers": callers, "threads": threads, **one})
                say(f"in process {model} {callers} callers, {threads} threads: {one['per_s']:.0f}/s")

    def in_process(self, model, callers, threads):
        command = [sys.executable, ROOT / "benches/serving/in_process.py", self.models / f"{model}.onnx", self.folder / f"{model}.npy"]
        command += [str(callers), str(threads), str(self.windows_s[model])]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def measure_daemon(self):
        """What has nothing to do with load: start, rest, and how fast a saved file is served."""
        found, times = self.results["daemon"], 3 if self.options.quick else 10
        found["empty_ready_ms"] = statistics.median(self.empty_ready_ms(index) for index in range(times))
        running = self.start_ten()
        try:
            found["ten_rss_mib"] = running.rss_mib()
            found["engine_rss_mib"] = engine_rss_mib(self.models / "mlp.onnx")
            found["ten_idle_percent_of_a_core"] = idle_percent(running, 3 if self.options.quick else 30)
            found["save_to_ready_ms"] = statistics.median(self.save_to_ready_ms(running, index) for index in range(times))
        finally:
            running.stop()
        say(f"daemon: {found}")

    def empty_ready_ms(self, index):
        running = kserved.Daemon(self.folder / f"empty-{index}", self.options.kserved)
        seconds = running.start()
        running.stop()
        return seconds * 1e3

    def start_ten(self):
        running = kserved.Daemon(self.folder / "ten", self.options.kserved)
        for index in range(10):
            running.add(f"mlp-{index}", self.models / "mlp.onnx")
        running.start()
        for index in range(10):
            running.client.infer("json", f"mlp-{index}", self.inputs["mlp"])
        return running

    def save_to_ready_ms(self, running, index):
        """From the rename that puts a manifest into the folder to the status that says Ready."""
        name = f"saved-{index}"
        (running.models / name).mkdir()
        shutil.copyfile(self.models / "mlp.onnx", running.models / name / "model.onnx")
        time.sleep(0.3)
        began = time.monotonic()
        running.add(name, None)
        running.wait_for(lambda: running.is_ready(name), 20, "serves a saved file")
        return (time.monotonic() - began) * 1e3

    def measure(self, servers):
        started = []
        try:
            for server in servers:
                server.start()
                started.append(server)
                server.at_rest_mib = load.rss_mib(server.pid)
            for model in self.inputs:
                for wire in WIRES:
                    self.measure_wire([server for server in servers if wire in server.wires], model, wire)
            for server in servers:
                memory = {"rss_mib": server.at_rest_mib, "rss_after_mib": load.rss_mib(server.pid)}
                self.results["servers"].append({"server": server.name, "ready_ms": server.ready_ms, **memory})
        finally:
            for server in started:
                server.stop()

    def measure_wire(self, servers, model, wire):
        for server in servers:
            self.check(server, model, wire)
        for callers in CALLERS:
            self.take_turns(servers, model, wire, callers)
        if model == "mlp":
            for server in servers:
                if server.name in ("kserved", "echo"):
                    self.measure_half(server, model, wire)
        for server in servers:
            self.check(server, model, wire)

    def take_turns(self, servers, model, wire, callers):
        """The machine is not equally fast at all times: so all servers, and a large model in process, have their windows next to each other."""
        windows = {server.name: [] for server in servers}
        alone = []
        for _ in range(self.rounds):
            if model == "resnet18" and callers > 1:
                # Servers still compute what callers asked for at the end of the last window.
                for server in servers:
                    until_idle(server.pid)
                alone.append(self.in_process(model, *self.best[model]))
            for server in servers:
                windows[server.name].append(self.window(server, model, wire, callers))
        for server in servers:
            found = {key: statistics.median(one[key] for one in windows[server.name]) for key in ("per_s", "p50_ms", "p99_ms", "cpu_ms")}
            found["failures"] = sum(one["failures"] for one in windows[server.name])
            beside = {key: statistics.median(one[key] for one in alone) for key in ("per_s", "cpu_ms") if alone}
            found |= {"in_process": beside, "share": shares(windows[server.name], alone)}
            self.results["load"].append({"server": server.name, "model": model, "wire": wire, "callers": callers, **found})
            say(f"{server.name} {model} {wire} {callers}: {found['per_s']:.0f}/s, p50 {found['p50_ms']}, p99 {found['p99_ms']}")

    def check(self, server, model, wire):
        """The answer is ONNX Runtime's own; otherwise there is nothing worth measuring."""
        client = oip.Client(server.http_port, server.grpc_port)
        wrong = oip.difference(self.expected[model], client.infer(wire, model, self.inputs[model]))
        client.close()
        if wrong:
            sys.exit(f"error: {server.name} answers {model} over {wire} wrongly: {wrong}")

    def target(self, server, model, wire):
        if wire == "grpc":
            return f"http://127.0.0.1:{server.grpc_port}/inference.GRPCInferenceService/ModelInfer"
        return f"http://127.0.0.1:{server.http_port}/v2/models/{model}/infer"

    def measure_half(self, server, model, wire):
        """Latencies at half of what kserved can do with 8 callers, the same for both servers."""
        body, headers = self.requests[model, wire]
        rate = self.results["half_load"].setdefault(wire, goals.rate(self.results, "kserved", model, wire, 8) / 2)
        url = self.target(server, model, wire)
        found = load.h2load(url, body, headers, 8, seconds=self.windows_s[model], http1=wire != "grpc", per_s=rate)
        self.results["half"].append({"server": server.name, "wire": wire, **found})
        say(f"{server.name} {model} {wire} at {rate:.0f}/s: p50 {found['p50_ms']}, p99 {found['p99_ms']}")

    def window(self, server, model, wire, callers):
        body, headers = self.requests[model, wire]
        url = self.target(server, model, wire)
        load.h2load(url, body, headers, callers, requests=200 if model == "mlp" else 8, http1=wire != "grpc")
        cpu = load.cpu_s(server.pid)
        found = load.h2load(url, body, headers, callers, seconds=self.windows_s[model], http1=wire != "grpc")
        return found | {"cpu_ms": (load.cpu_s(server.pid) - cpu) / max(1, found["answers"]) * 1e3}


def until_idle(pid):
    """Waits until a process took no processor time for a fifth of a second."""
    before = None
    while (now := load.cpu_s(pid)) != before:
        before = now
        time.sleep(0.2)


def shares(windows, alone):
    """Answers a second of what the model does in process in the same turn; the median of all turns."""
    return statistics.median(one["per_s"] / beside["per_s"] for one, beside in zip(windows, alone)) if alone else None


class Kserved:
    """The daemon, release build, every default."""

    name = "kserved"
    wires = WIRES

    def __init__(self, bench):
        self.running = kserved.Daemon(bench.folder / "kserved", bench.options.kserved)
        for model in bench.inputs:
            self.running.add(model, bench.models / f"{model}.onnx")

    def start(self):
        self.ready_ms = self.running.start() * 1e3
        self.pid = self.running.process.pid
        self.http_port, self.grpc_port = self.running.ports["http"], self.running.ports["grpc"]

    def stop(self):
        self.running.stop()


class Child:
    """Another server as a child process on ports that were free a moment ago."""

    wires = WIRES

    def __init__(self, bench):
        self.bench = bench
        self.http_port, self.grpc_port = kserved.free_port(), kserved.free_port()

    def start(self):
        began = time.monotonic()
        with (self.bench.folder / f"{self.name}.log").open("wb") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log)
        self.pid = self.process.pid
        client = oip.Client(self.http_port)
        while not self.answers(client):
            if self.process.poll() is not None or time.monotonic() - began > 120:
                sys.exit(f"error: {self.name} did not start\n\n{(self.bench.folder / f'{self.name}.log').read_text()}")
            time.sleep(0.005)
        self.ready_ms = (time.monotonic() - began) * 1e3
        client.close()

    @staticmethod
    def answers(client):
        try:
            return client.get("/v2/health/ready").status == 200
        except OSError:
            return False

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Echo(Child):
    """The same HTTP and gRPC stack with an answer prepared before: what no server on it can beat."""

    name = "echo"

    def command(self):
        folder = self.bench.folder / "canned"
        folder.mkdir()
        for model, outputs in self.bench.expected.items():
            for name, content in canned(model, outputs).items():
                (folder / name).write_bytes(content)
        return [self.bench.options.echo, folder, str(self.http_port), str(self.grpc_port)]


class Sdk(Child):
    """KServe's Python model server with ONNX Runtime behind it."""

    name = "kserve-sdk"

    def command(self):
        models = [f"{model}={self.bench.models / f'{model}.onnx'}" for model in self.bench.inputs]
        ports = ["--http_port", str(self.http_port), "--grpc_port", str(self.grpc_port)]
        return [sys.executable, ROOT / "tests/clients/kserve_server.py", *ports, "--enable_latency_logging", "false", *models]


class Mlserver(Child):
    """MLServer without parallel workers, its fastest form here; it knows no binary tensors over HTTP."""

    name = "mlserver"
    wires = ["json", "grpc"]

    def command(self):
        folder = self.bench.folder / "mlserver"
        folder.mkdir()
        settings = {"host": "127.0.0.1", "http_port": self.http_port, "grpc_port": self.grpc_port, "metrics_port": kserved.free_port()}
        settings |= {"parallel_workers": 0, "grpc_max_message_length": oip.MESSAGE_BYTES_MAX, "metrics_dir": str(folder)}
        (folder / "settings.json").write_text(json.dumps(settings))
        shutil.copy(ROOT / "benches/serving/mlserver/onnx_runtime.py", folder)
        for model in self.bench.inputs:
            (folder / model).mkdir()
            described = {"name": model, "implementation": "onnx_runtime.OnnxModel"}
            described["parameters"] = {"uri": str(self.bench.models / f"{model}.onnx")}
            (folder / model / "model-settings.json").write_text(json.dumps(described))
        return [self.bench.options.mlserver, "-c", f"import os, sys; os.chdir({str(folder)!r}); sys.path.insert(0, ''); "
                "from mlserver.cli import main; sys.argv = ['mlserver', 'start', '.']; main()"]


def shortest(array):
    """The numbers in the shortest form that reads back as the same FP32, as most languages write them."""
    return [float(str(value)) for value in array.ravel()]


def canned(model, outputs):
    """The answers of a model as files for the echo server."""
    described = [{**oip.head(name, array), "data": oip.listed(array)} for name, array in outputs.items()]
    text = json.dumps({"model_name": model, "id": "0", "outputs": described}, separators=(",", ":")).encode()
    raw = {name: oip.raw(array) for name, array in outputs.items()}
    heads = [
        {**oip.head(name, array), "parameters": {"binary_data_size": len(raw[name])}} for name, array in outputs.items()
    ]
    head = json.dumps({"model_name": model, "id": "0", "outputs": heads}, separators=(",", ":")).encode()
    response = oip.pb.ModelInferResponse(model_name=model, id="0", raw_output_contents=raw.values())
    for name, array in outputs.items():
        response.outputs.add(name=name, datatype=oip.datatype_of(array), shape=array.shape)
    return {
        f"{model}.json": text,
        f"{model}.binary": b"".join([head, *raw.values()]),
        f"{model}.binary.length": str(len(head)).encode(),
        f"{model}.grpc": response.SerializeToString(),
    }


def in_process_answer(model, inputs):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs)))


def engine_rss_mib(model):
    """What a Python process takes more once it has ten sessions of the model that ran."""
    command = [sys.executable, ROOT / "benches/serving/engine_memory.py", model, "10"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def idle_percent(running, seconds):
    time.sleep(2)
    cpu, began = running.cpu_s(), time.monotonic()
    time.sleep(seconds)
    return (running.cpu_s() - cpu) / (time.monotonic() - began) * 100


def machine():
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = int(pathlib.Path("/proc/meminfo").read_text().split()[1]) >> 20
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": memory,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "commit": commit.stdout.strip() or "unknown",
        "load_before": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
    }


def report(results, options):
    """The tables as Markdown."""
    on = results["machine"]
    command = "make bench" + (" BENCH_ARGS=--quick" if options.quick else "")
    lines = [
        f"Machine: {on['cpu']}, {on['cores']} cores, {on['memory_gib']} GiB, Linux {on['kernel']}; ONNX Runtime "
        f"{on['onnxruntime']}, Python {on['python']}; {on['date']}, commit {on['commit']}, load before the run "
        f"{on['load_before']:.1f}.",
        f"Command: `{command}`. h2load runs on the same cores; one request in flight per caller. CPU is the server's "
        "own processor time per answer. All take turns of short windows, three of each; medians.",
        "",
        "### Against the floor",
        "",
        *goals.tables(results),
        "",
        "### Start and rest",
        "",
        *(daemon_table(results) if results["daemon"] else []),
        *server_table(results),
        "",
    ]
    for model in ("mlp", "resnet18"):
        lines += [f"### {model}", "", *in_process_table(results, model), "", *load_table(results, model), ""]
    return "\n".join(lines)


def daemon_table(results):
    found = results["daemon"]
    yield "| what | measured | goal |"
    yield "|---|---|---|"
    yield f"| ready with an empty folder | {found['empty_ready_ms']:.0f} ms | below 100 ms |"
    yield f"| from saving a small model's file to Ready | {found['save_to_ready_ms']:.0f} ms | below 1,000 ms |"
    yield f"| idle with ten models | {found['ten_idle_percent_of_a_core']:.2f} % of a core | below 1 % |"
    engine = found["engine_rss_mib"]
    yield f"| what ONNX Runtime alone takes for ten models, in a Python process | {engine:.0f} MiB | |"
    yield f"| resident beyond that | {found['ten_rss_mib'] - engine:.0f} MiB | at most 25 MiB |"
    yield ""


def server_table(results):
    yield "| server, both models | ready | resident at rest | after the load |"
    yield "|---|---|---|---|"
    for row in results["servers"]:
        if row["server"] != "echo":
            yield f"| {row['server']} | {row['ready_ms']:.0f} ms | {row['rss_mib']:.0f} MiB | {row['rss_after_mib']:.0f} MiB |"


def in_process_table(results, model):
    yield "| in process (Python) | calls/s | p50 ms | p99 ms | CPU ms |"
    yield "|---|---|---|---|---|"
    for row in results["in_process"]:
        if row["model"] == model:
            form = f"{row['callers']} caller{'s' if row['callers'] > 1 else ''}, {row['threads']} thread{'s' if row['threads'] > 1 else ''} each"
            yield f"| {form} | {number(row['per_s'])} | {number(row['p50_ms'])} | {number(row['p99_ms'])} | {number(row['cpu_ms'])} |"


def load_table(results, model):
    yield "| server | wire | callers | answers/s | p50 ms | p99 ms | CPU ms | failures |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in results["load"]:
        if row["model"] == model:
            cells = [number(row[key]) for key in ("per_s", "p50_ms", "p99_ms", "cpu_ms")]
            yield f"| {row['server']} | {row['wire']} | {row['callers']} | {' | '.join(cells)} | {row['failures']} |"


def number(value):
    """Three digits that matter."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def write(path, tables):
    """Puts the tables between the marks; what others wrote around them stays."""
    text = path.read_text() if path.is_file() else f"# Benchmarks\n\n## Serving\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{tables}{END}{after}")


def say(text):
    print(text, flush=True)


if __name__ == "__main__":
    main()
