"""Compiles target/release/kserved, with branches and functions laid out by a recorded profile of what it does most.

Run: python3 scripts/build.py    (`make build` does that)

The profile in benches/profile/ was recorded with one version of the compiler, and only that one can use it: any other compiles
without it, and says so. What is compiled lies in $CARGO_TARGET_DIR, or target/, and is placed from there.
"""

import gzip
import hashlib
import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROFILE = ROOT / "benches/profile/kserved.profdata.gz"
# The compiler of the profile, as `rustc -vV` tells it.
RECORDED_WITH = ROOT / "benches/profile/rustc"
# Functions that changed since are compiled without it, which is no news.
QUIET = "-Cllvm-args=-no-pgo-warn-mismatch"


class Compiler(NamedTuple):
    """What a profile depends on: functions are found again by names that only the same compiler gives them."""

    version: str
    host: str

    def __str__(self):
        return f"{self.version} {self.host}"


def main():
    compiler = this_compiler()
    profile = fitting_profile(compiler)
    built = build(compiler, target(), [f"-Cprofile-use={profile}", QUIET] if profile else [])
    subprocess.run([ROOT / "scripts/place_binary.sh", "release", "kserved", built], check=True)


def this_compiler():
    version, *rest = rustc("-vV").splitlines()
    return Compiler(version, next(line.removeprefix("host: ") for line in rest if line.startswith("host: ")))


def rustc(*arguments):
    """What the compiler answers."""
    return subprocess.run([os.environ.get("RUSTC", "rustc"), *arguments], check=True, capture_output=True, text=True).stdout.strip()


def fitting_profile(compiler):
    """The file of the profile if this compiler can use it."""
    recorded = RECORDED_WITH.read_text().strip()
    if recorded != str(compiler):
        print(
            f"note: compiled without the recorded profile, which is for `{recorded}`; this is `{compiler}`. "
            "Small models take some 15 % more processor time.\n\n"
            "hint: use that compiler, or record a profile with this one: `make profile`",
            file=sys.stderr,
        )
        return None
    packed = PROFILE.read_bytes()
    # Another profile is another file: what was compiled with the one before is not up to date.
    file = target() / "profile" / f"{hashlib.sha256(packed).hexdigest()[:16]}.profdata"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".draft")
        draft.write_bytes(gzip.decompress(packed))
        draft.replace(file)
    return file


def target():
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()


def build(compiler, folder, flags):
    """Compiles into a folder with flags that the program gets, and that build scripts do not; the folder of the program.

    Always the program alone: examples come with features of dependencies, and these are part of the names of functions.
    """
    environment = {**os.environ, "CARGO_TARGET_DIR": str(folder)}
    command = [os.environ.get("CARGO", "cargo"), "build", "--locked", "--release", "--target", compiler.host, "--bin", "kserved"]
    given = own_flags(environment)
    if given is not None:
        # They take the place of flags in configuration files. Paths may have spaces, so only the form without any will do.
        environment["CARGO_ENCODED_RUSTFLAGS"] = "\x1f".join([*given, *flags])
    elif flags:
        command += ["--config", f"target.{compiler.host}.rustflags={json.dumps(flags)}"]
    if status := subprocess.run(command, cwd=ROOT, env=environment).returncode:
        sys.exit(status)
    return folder / compiler.host / "release"


def own_flags(environment):
    """The compiler's flags that the user set in the environment, as cargo reads them; none if none is set."""
    if (encoded := environment.get("CARGO_ENCODED_RUSTFLAGS")) is not None:
        return encoded.split("\x1f") if encoded else []
    flags = environment.get("RUSTFLAGS")
    return flags if flags is None else flags.split()


if __name__ == "__main__":
    main()
