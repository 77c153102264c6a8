"""Prints how many MiB ONNX Runtime itself takes for some sessions of one model that ran once: its library, and what it allocates.

Run: python benches/serving/engine_memory.py MODEL.onnx SESSIONS
"""

import pathlib
import sys

import numpy as np


def rss_mib():
    status = pathlib.Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024


def main(model, count):
    before = rss_mib()
    # Not at the top: the library's own pages are what is measured.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = [onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]) for _ in range(int(count))]
    for session in sessions:
        (given,) = session.get_inputs()
        shape = [size if isinstance(size, int) else 1 for size in given.shape]
        session.run(None, {given.name: np.zeros(shape, np.float32)})
    print(f"{rss_mib() - before:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
