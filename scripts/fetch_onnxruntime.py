"""Puts the pinned ONNX Runtime library into lib/: fetched by package name with pip, checked by sha256, unpacked.

Run: python3 scripts/fetch_onnxruntime.py    (a second run does nothing and needs no network)

The wheel is kept in $KSERVED_CACHE/wheels, or .cache/wheels without a cache folder.
"""

import hashlib
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import zipfile

VERSION = "1.31.1"
# The Python in the tag is arbitrary: only the C library is taken out of the wheel.
WHEELS = {
    "x86_64": (
        f"onnxruntime-{VERSION}-cp312-cp312-manylinux_2_28_x86_64.whl",
        "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536",
    ),
    "aarch64": (
        f"onnxruntime-{VERSION}-cp312-cp312-manylinux_2_28_aarch64.whl",
        "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc",
    ),
}
LIBRARY = f"libonnxruntime.so.{VERSION}"
# Path in the wheel to name in lib/.
MEMBERS = {
    f"onnxruntime/capi/{LIBRARY}": LIBRARY,
    "onnxruntime/LICENSE": "LICENSE",
    "onnxruntime/ThirdPartyNotices.txt": "ThirdPartyNotices.txt",
}
LINKS = ["libonnxruntime.so", "libonnxruntime.so.1"]
ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("KSERVED_CACHE") or ROOT / ".cache")


def main():
    machine = platform.machine()
    if platform.system() != "Linux" or machine not in WHEELS:
        fail(
            f"no ONNX Runtime is pinned for this machine: `{platform.system()} {machine}`",
            f"Linux on {' or '.join(WHEELS)} is supported; elsewhere set `ORT_DYLIB_PATH` to a library of version {VERSION}",
        )
    lib = ROOT / "lib"
    name, sha256 = WHEELS[machine]
    stamp = lib / ".wheel-sha256"
    if is_complete(lib, stamp, sha256):
        return
    unpack(fetch(name, machine, sha256), lib)
    stamp.write_text(sha256 + "\n")
    print(f"ONNX Runtime {VERSION} is in {lib}")


def is_complete(lib, stamp, sha256):
    """Whether lib/ holds what the pinned wheel would give."""
    wanted = [lib / name for name in [*MEMBERS.values(), *LINKS]]
    return stamp.is_file() and stamp.read_text().strip() == sha256 and all(path.exists() for path in wanted)


def fetch(name, machine, sha256):
    """The path of the wheel in the cache, its hash checked each time."""
    wheel = CACHE / "wheels" / name
    if not wheel.is_file():
        wheel.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=wheel.parent) as folder:
            download(machine, folder)
            check(pathlib.Path(folder) / name, sha256)
            (pathlib.Path(folder) / name).rename(wheel)
    check(wheel, sha256)
    return wheel


def download(machine, folder):
    print(f"fetching onnxruntime {VERSION} for {machine} (about 24 MB)", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--platform", f"manylinux_2_28_{machine}", "--implementation", "cp"]
    command += ["--python-version", "3.12", "--abi", "cp312", "--dest", folder, f"onnxruntime=={VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No module named pip" in done.stderr:
        fail("this Python has no pip", "install it (Debian: `apt install python3-pip`), then run `make setup` again")
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        fail(
            f"`onnxruntime=={VERSION}` could not be fetched with pip (its own words stand above)",
            "the first set-up needs a package index that pip can reach; later ones work offline",
        )


def check(wheel, sha256):
    """Stops unless the wheel is the pinned one, byte for byte."""
    if not wheel.is_file():
        fail(f"pip did not leave the expected file: `{wheel.name}`", "clear pip's settings for this folder and try again")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != sha256:
        fail(f"{wheel.name}: sha256 is {found}, expected {sha256}", f"remove `{wheel}` and run `make setup` again")


def unpack(wheel, lib):
    lib.mkdir(exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for member, name in MEMBERS.items():
            partial = lib / f".{name}.partial"
            partial.write_bytes(archive.read(member))
            partial.chmod(0o644)
            partial.replace(lib / name)
    for link in LINKS:
        (lib / link).unlink(missing_ok=True)
        (lib / link).symlink_to(LIBRARY)


def fail(what, hint):
    sys.exit(f"error: {what}\n\nhint: {hint}")


if __name__ == "__main__":
    main()
