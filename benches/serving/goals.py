"""What kserved is measured against: the floor is the echo server's processor time plus a run's in process."""

WIRES = ["json", "binary", "grpc"]
CALLERS = [8, 32]


def rate(results, server, model, wire, callers):
    return found(results, server, model, wire, callers)["per_s"]


def found(results, server, model, wire, callers):
    wanted = (server, model, wire, callers)
    return next(row for row in results["load"] if (row["server"], row["model"], row["wire"], row["callers"]) == wanted)


def tables(results):
    """As Markdown; nothing for servers that were left out."""
    servers = {row["server"] for row in results["load"]}
    if not {"kserved", "echo"} <= servers:
        return
    yield from tiny(results, "kserve-sdk" in servers)
    yield ""
    yield from alone(results)
    yield ""
    yield from large(results)


def tiny(results, with_sdk):
    """Many callers of the tiny model."""
    run_us = min(row["cpu_ms"] for row in results["in_process"] if row["model"] == "mlp") * 1e3
    yield f"The floor of a request to the tiny model: the echo server's processor time and {run_us:.1f} µs of a run in process."
    yield "kserved is compiled with a recorded profile, the echo server without (decision 54 says what it would gain)."
    yield ""
    yield "| wire | callers | CPU µs | floor µs | CPU of floor (goal 1.25) | answers/s of what the floor allows (goal 0.80) | times the KServe SDK (goal 15) |"
    yield "|---|---|---|---|---|---|---|"
    for wire in WIRES:
        for callers in CALLERS:
            ours, echo = found(results, "kserved", "mlp", wire, callers), found(results, "echo", "mlp", wire, callers)
            floor_us = echo["cpu_ms"] * 1e3 + run_us
            allowed = echo["per_s"] * echo["cpu_ms"] * 1e3 / floor_us
            times = f"{ours['per_s'] / rate(results, 'kserve-sdk', 'mlp', wire, callers):.1f}" if with_sdk else "–"
            cpu_us = ours["cpu_ms"] * 1e3
            yield f"| {wire} | {callers} | {cpu_us:.1f} | {floor_us:.1f} | {cpu_us / floor_us:.2f} | {ours['per_s'] / allowed:.2f} | {times} |"


def alone(results):
    """One caller, and half the load."""
    yield "| wire | one caller: p50 added over echo (goal 15 µs) | half load, 8 callers: p99 added over echo (goal 250 µs) |"
    yield "|---|---|---|"
    for wire in WIRES:
        p50 = [found(results, server, "mlp", wire, 1)["p50_ms"] for server in ("kserved", "echo")]
        half = {row["server"]: row["p99_ms"] for row in results["half"] if row["wire"] == wire}
        yield f"| {wire} | {(p50[0] - p50[1]) * 1e3:.0f} µs | {(half['kserved'] - half['echo']) * 1e3:.0f} µs |"


def large(results):
    """The model whose runs take milliseconds."""
    best = max((row for row in results["in_process"] if row["model"] == "resnet18"), key=lambda row: row["per_s"])
    yield f"ResNet-18 in process is fastest with {best['callers']} callers of {best['threads']} thread each; it runs so between the servers' windows."
    yield ""
    yield "| wire | callers | in process, calls/s | answers/s of that (goal 0.98, JSON 0.85) | CPU ms in process | CPU ms beyond | of which echo's |"
    yield "|---|---|---|---|---|---|---|"
    for wire in WIRES:
        for callers in CALLERS:
            ours, echo = found(results, "kserved", "resnet18", wire, callers), found(results, "echo", "resnet18", wire, callers)
            alone = ours["in_process"]
            beyond = ours["cpu_ms"] - alone["cpu_ms"]
            yield f"| {wire} | {callers} | {alone['per_s']:.0f} | {ours['share']:.3f} | {alone['cpu_ms']:.1f} | {beyond:.2f} | {echo['cpu_ms']:.2f} |"
