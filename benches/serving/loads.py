"""How long models take to load: the first time, from their kept optimised graphs, and what ONNX Runtime takes for those alone.

Run: make bench-load
"""

import argparse
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "tests" / "clients"))

import daemon as kserved  # noqa: E402
import make_models  # noqa: E402
import minilm  # noqa: E402
import packaged  # noqa: E402
import tables  # noqa: E402

OCR = "rapidocr_onnxruntime/models"
PACKAGED = {
    "silero-vad": (packaged.SILERO, "silero_vad/data/silero_vad.onnx"),
    "magika": (packaged.MAGIKA, "magika/models/standard_v3_3/model.onnx"),
    "OCR classifier": (packaged.RAPIDOCR, f"{OCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    "OCR reader": (packaged.RAPIDOCR, f"{OCR}/ch_PP-OCRv4_rec_infer.onnx"),
    "OCR detector": (packaged.RAPIDOCR, f"{OCR}/ch_PP-OCRv4_det_infer.onnx"),
}
# Each in a process of its own, as the daemon is: the first session of a process costs more than the next. The last word turns off the
# planning of which tensors may share memory, which the C interface has no switch for.
ALONE = """
import sys, time, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.enable_mem_pattern, options.enable_mem_reuse = False, sys.argv[2] == "reuse"
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
def in_its_format(model):
    with open(model, "rb") as file:
        own = file.read(8)[4:] == b"ORTM"
    if own:
        for key, value in {"load_model_format": "ORT", "use_memory_mapped_ort_model": "1", "use_ort_model_bytes_for_initializers": "1"}.items():
            options.add_session_config_entry(f"session.{key}", value)
tiny = onnxruntime.InferenceSession(sys.argv[3], options, providers=["CPUExecutionProvider"])
in_its_format(sys.argv[1])
began = time.perf_counter()
onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
print(1e3 * (time.perf_counter() - began))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="first loads, and as many second ones, of each model")
    options = tables.arguments(parser)
    with tempfile.TemporaryDirectory(prefix="kserved-loads-") as folder:
        folder = pathlib.Path(folder)
        make_models.make(folder)
        files = {"ResNet-18": folder / "resnet18.onnx", "MiniLM, 8 bits": minilm.published()}
        files |= {name: packaged.member(*where) for name, where in PACKAGED.items()}
        rows = [row(folder / str(at), options, name, file, folder / "mlp.onnx") for at, (name, file) in enumerate(files.items())]
    heads = ["model", "MB", "first load ms", "second load ms", "times faster (goal 3)", "ONNX Runtime alone, the kept graph ms", "the same without planning reuse ms"]
    lines = [
        tables.machine(f"make bench-load BENCH_ARGS='--rounds {options.rounds}'"),
        "From the beginning of a load to Ready, as `kserved_model_load_seconds` tells; one model a daemon, which has loaded a tiny one before; "
        "medians. Files are in the page cache. The run that warms a first revision up comes after Ready, so it is in neither.",
        "",
        *tables.table(heads, rows),
    ]
    tables.write(options.output, "loads", "Loading twice", lines)


def row(folder, options, name, file, tiny):
    first, second, alone, planless = [], [], [], []
    for turn in range(options.rounds):
        running = kserved.Daemon(folder / str(turn), options.kserved)
        running.add("tiny", tiny)
        first.append(load_ms(running, name, file))
        optimised = running.folder / "cache" / "optimised"
        running.wait_for(lambda: list((optimised / "notes").glob("*.json")), 60, "keeps the graph")
        running.stop()
        (running.models / "model.yaml").unlink()
        second.append(load_ms(running, name, file))
        running.stop()
        (graph,) = (optimised / "graphs").glob("*/graph")
        alone.append(alone_ms(graph, "reuse", tiny))
        planless.append(alone_ms(graph, "none", tiny))
    first, second, alone, planless = map(statistics.median, (first, second, alone, planless))
    return name, file.stat().st_size / 1e6, first, second, first / second, alone, planless


def load_ms(running, name, file):
    """Starts the daemon with its tiny model, adds the other, and gives how long its load took."""
    running.start()
    before = total_s(running)
    if not (running.models / "model" / "model.onnx").exists():
        running.add("model", file)
    else:
        running.write("model.yaml", kserved.service("model", "model/model.onnx"))
    running.wait_ready("model")
    running.wait_for(lambda: total_s(running) > before, 5, f"counts the load of {name}")
    return 1e3 * (total_s(running) - before)


def total_s(running):
    found = re.search(r"^kserved_model_load_seconds_sum (\S+)", running.client.get("/metrics").body.decode(), re.M)
    return float(found[1]) if found else 0.0


def alone_ms(graph, reuse, tiny):
    return float(subprocess.run([sys.executable, "-c", ALONE, graph, reuse, tiny], check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
