"""Every ONNX backend case that ONNX Runtime answers right goes through the daemon on every wire that can carry it."""

import shutil
import time

import backend_cases
import oip
import pytest
from daemon import Daemon, service

# What the pinned onnx and onnxruntime packages give; a smaller number means that a case was lost.
CASES = 1230
COUNTS = {"json": 1196, "binary": 1230, "grpc": 1230, "typed": 1211}


@pytest.fixture(scope="module")
def cases():
    return backend_cases.passing()


@pytest.fixture(scope="module")
def served(cases, tmp_path_factory):
    """One daemon whose folder holds every case as an InferenceService."""
    daemon = Daemon(tmp_path_factory.mktemp("backend"))
    for case in cases:
        shutil.copytree(case.model.parent, daemon.models / case.name, ignore=shutil.ignore_patterns("test_data_set_*"))
        (daemon.models / f"{case.name}.yaml").write_text(service(case.name, f"{case.name}/model.onnx"))
    seconds = daemon.start(ready_within_s=240)
    print(f"\n{len(cases)} InferenceServices in one folder: ready after {seconds:.1f} s, {daemon.rss_mib():.0f} MiB resident")
    yield daemon
    print(f"\nafter all requests: {daemon.rss_mib():.0f} MiB resident")
    assert daemon.stop() == 0


def test_no_case_is_lost_before_it_is_asked(cases):
    assert len(cases) == len({case.name for case in cases}) == CASES
    assert {wire: sum(case.fits(wire) for case in cases) for wire in oip.WIRES} == COUNTS


def test_every_case_is_a_ready_service(served, cases):
    answer = served.client.get("/apis/serving.kserve.io/v1beta1/inferenceservices")
    ready = {item["metadata"]["name"] for item in answer.json()["items"] if is_ready(item)}
    assert ready == {case.name for case in cases}


def is_ready(item):
    conditions = item.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


@pytest.mark.parametrize("wire", oip.WIRES)
def test_every_case_answers_as_onnx_runtime_does(served, cases, wire):
    began, wrong, fitting = time.monotonic(), {}, [case for case in cases if case.fits(wire)]
    for case in fitting:
        if said := answer(served.client, wire, case):
            wrong[case.name] = said
    print(f"\n{len(fitting)} cases over {wire}: {time.monotonic() - began:.1f} s")
    assert not wrong, f"{len(wrong)} of {len(fitting)}:\n" + "\n".join(f"{name}: {said}" for name, said in wrong.items())


def answer(client, wire, case):
    """What is wrong with the daemon's answer to a case, or nothing."""
    try:
        found = client.infer(wire, case.name, case.inputs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    wrong = oip.difference(case.outputs, found)
    if wrong and any(not oip.difference(other, found) for other in case.other_answers()):
        return ""
    return wrong
