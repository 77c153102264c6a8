"""Drives one address with h2load and reads back what each request took; and reads processor time and memory from /proc."""

import os
import pathlib
import subprocess
import tempfile

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def h2load(url, body, headers, callers, seconds=None, requests=None, http1=True, per_s=None):
    """Answers per second, latencies and failures of one window; one connection and one request at a time a caller.

    `per_s` bounds how many requests all callers together begin in a second.
    """
    with tempfile.NamedTemporaryFile(prefix="h2load") as log:
        command = ["h2load", "-t1", f"-c{callers}", "-m1", f"--log-file={log.name}", "-d", str(body)]
        command += ["--h1"] if http1 else []
        command += ["-D", f"{int(seconds * 1000)}ms"] if seconds else ["-n", str(max(requests, callers))]
        command += [f"--rps={per_s / callers:.3f}"] if per_s else []
        for name, value in headers.items():
            command += ["-H", f"{name}: {value}"]
        subprocess.run([*command, url], check=True, capture_output=True, timeout=(seconds or 60) + 60)
        return summary(pathlib.Path(log.name).read_text())


def summary(log):
    """h2load writes a line a request: when it began in microseconds, the status, how many microseconds it took."""
    rows = [tuple(map(int, line.split("\t"))) for line in log.splitlines()]
    good = [(began, took) for began, status, took in rows if status == 200]
    times = sorted(took for _, took in good)
    at = lambda share: times[min(len(times) - 1, int(share * len(times)))] / 1e3 if times else None
    # Up to the last answer, not to the end of the window: what is then in flight is cut off and belongs to neither.
    span_s = (max(sum(row) for row in good) - min(row[0] for row in good)) / 1e6 if good else 1
    return {
        "answers": len(times),
        "failures": len(rows) - len(times),
        "per_s": len(times) / span_s,
        "p50_ms": at(0.5),
        "p99_ms": at(0.99),
    }


def cpu_s(pid):
    """Processor seconds of a process, all its threads together."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_mib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024
