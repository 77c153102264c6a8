"""Calls ONNX Runtime in this process as fast as it goes, and prints one JSON line: the floor for any server.

Run: python benches/serving/in_process.py MODEL.onnx INPUT.npy CALLERS INTRA_OP_THREADS SECONDS
"""

import json
import resource
import sys
import threading
import time

import numpy as np
import onnxruntime


def main(model, array, callers, threads, seconds):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = int(threads), 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = {"input": np.load(array)}
    for _ in range(5):
        session.run(None, inputs)
    taken = [[] for _ in range(int(callers))]
    began, used = time.perf_counter(), cpu_s()
    end = began + float(seconds)
    workers = [threading.Thread(target=call, args=(session, inputs, end, times)) for times in taken]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    wall, used = time.perf_counter() - began, cpu_s() - used
    times = sorted(time for own in taken for time in own)
    quantile = lambda share: times[min(len(times) - 1, int(share * len(times)))] * 1e3
    print(
        json.dumps(
            {
                "per_s": len(times) / wall,
                "p50_ms": quantile(0.5),
                "p99_ms": quantile(0.99),
                "cpu_ms": used / len(times) * 1e3,
                "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


def call(session, inputs, end, times):
    now = time.perf_counter()
    while now < end:
        session.run(None, inputs)
        after = time.perf_counter()
        times.append(after - now)
        now = after


def cpu_s():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main(*sys.argv[1:])
