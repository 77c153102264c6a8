"""Makes the Python environment of a requirements file, once, and prints the path of its interpreter.

Run: python3 scripts/environment.py tests/clients/requirements.txt

It lives in $KSERVED_CACHE/environments, or .cache/environments without a cache folder, under the hash of the file and
the Python version: a changed file makes a new one, an unchanged one needs no network.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("KSERVED_CACHE") or ROOT / ".cache")


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: python3 scripts/environment.py REQUIREMENTS")
    print(environment(pathlib.Path(sys.argv[1])))


def environment(requirements):
    """The interpreter that has the packages of `requirements`."""
    text = requirements.read_bytes()
    key = hashlib.sha256(text + sys.version.encode()).hexdigest()[:16]
    folder = CACHE / "environments" / f"{requirements.stem}-{key}"
    python = folder / "bin" / "python"
    if not (folder / ".complete").is_file():
        make(folder, python, requirements)
    return python


def make(folder, python, requirements):
    say(f"making the Python environment of {requirements} (a minute or two, once)")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    run([sys.executable, "-m", "venv", folder], "install the venv module (Debian: `apt install python3-venv`)")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", requirements]
    run(install, "the first run needs a package index that pip can reach; later ones work offline")
    (folder / ".complete").touch()


def run(command, hint):
    # stdout carries the answer, so pip's words go to stderr.
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
        sys.exit(f"error: `{' '.join(map(str, command))}` failed\n\nhint: {hint}")


def say(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
