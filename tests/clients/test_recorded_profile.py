"""How kserved is compiled for use: with the recorded profile where the compiler is the one that recorded it."""

import gzip
import json
import re
import sys

import pytest
from daemon import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

import build  # noqa: E402
import record_profile  # noqa: E402

RECORDED = (ROOT / "benches/profile/rustc").read_text().strip()


def compiler(told):
    """What `rustc -vV` would say of a compiler that the profile's file names so."""
    version, _, host = told.rpartition(" ")
    return build.Compiler(version, host)


@pytest.fixture
def target(tmp_path, monkeypatch):
    monkeypatch.setenv("CARGO_TARGET_DIR", str(tmp_path / "target"))
    return tmp_path / "target"


def test_the_compiler_that_recorded_the_profile_uses_it(target):
    file = build.fitting_profile(compiler(RECORDED))
    assert file.parent == target / "profile"
    assert file.read_bytes() == gzip.decompress(build.PROFILE.read_bytes())
    assert build.fitting_profile(compiler(RECORDED)) == file


def test_another_compiler_does_without_and_is_told_so(target, capsys):
    other = compiler(RECORDED.replace("1.", "2.", 1))
    assert build.fitting_profile(other) is None
    told = capsys.readouterr().err
    assert RECORDED in told and str(other) in told and "hint: " in told and "`make profile`" in told


def test_what_rustc_says_of_itself_is_read(monkeypatch):
    monkeypatch.delenv("RUSTC", raising=False)
    found = build.this_compiler()
    assert re.fullmatch(r"rustc \d+\.\d+\.\d+.*", found.version) and found.host.count("-") >= 2


USERS = [
    ({}, None),
    ({"RUSTFLAGS": "-Copt-level=2 -g"}, "-Copt-level=2|-g|-Cprofile-use=/a b"),
    ({"RUSTFLAGS": ""}, "-Cprofile-use=/a b"),
    ({"RUSTFLAGS": "-g", "CARGO_ENCODED_RUSTFLAGS": "-L/c d"}, "-L/c d|-Cprofile-use=/a b"),
]


@pytest.mark.parametrize(("variables", "encoded"), USERS)
def test_cargo_gets_the_profile_beside_the_flags_of_the_user(target, tmp_path, monkeypatch, variables, encoded):
    cargo = tmp_path / "cargo"
    told = '{ printf "%s\\n" "$@"; } > "$0.arguments"; printf %s "${CARGO_ENCODED_RUSTFLAGS-unset}" > "$0.flags"'
    cargo.write_text(f"#!/bin/sh\n{told}\nexit 3\n")
    cargo.chmod(0o755)
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"]:
        monkeypatch.delenv(name, raising=False)
    for name, value in {**variables, "CARGO": str(cargo)}.items():
        monkeypatch.setenv(name, value)
    rustc = compiler(RECORDED)
    with pytest.raises(SystemExit) as failed:
        build.build(rustc, target, ["-Cprofile-use=/a b"])
    assert failed.value.code == 3
    asked = (tmp_path / "cargo.arguments").read_text().splitlines()
    assert asked[:7] == ["build", "--locked", "--release", "--target", rustc.host, "--bin", "kserved"]
    # Flags of `--config` are added to those of the user's files; the variables take the place of both.
    config = ["--config", f"target.{rustc.host}.rustflags={json.dumps(['-Cprofile-use=/a b'])}"]
    assert asked[7:] == ([] if encoded else config)
    assert (tmp_path / "cargo.flags").read_text().replace("\x1f", "|") == (encoded or "unset")


def test_a_recorded_profile_leaves_out_what_is_seldom_done():
    head = "# IR level Instrumentation Flag\n:ir"
    seldom = "seldom\n# Func Hash:\n1\n# Num Counters:\n2\n# Counter Values:\n999\n3\n"
    loops = "loops\n# Func Hash:\n2\n# Num Counters:\n2\n# Counter Values:\n1\n1000\n"
    calls = loops.replace("loops", "calls") + "# Num Value Kinds:\n1\n# ValueKind = IPVK_IndirectCallTarget:\n0\n"
    assert record_profile.without_the_seldom("\n".join([head, seldom, loops, seldom, calls])) == "\n".join([head, loops, calls])


def test_the_container_is_built_with_the_compiler_of_the_profile():
    image = re.search(r"^FROM rust:(\S+)-bookworm", (ROOT / "Dockerfile").read_text(), re.MULTILINE).group(1)
    assert RECORDED.startswith(f"rustc {image}")
