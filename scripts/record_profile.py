"""Records what kserved does most, for `scripts/build.py`: benches/profile/kserved.profdata.gz.

Run: make profile    (a quarter of an hour on two cores; needs `rustup component add llvm-tools` and h2load)

A program that counts is compiled. The client tests and short benchmarks let it do all it can, and requests again and again what it
is for. The profile should be recorded anew for another version of the compiler, and when much of what requests pass through has changed:
functions that are not the same any more are compiled without it.
"""

import gzip
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import build
from environment import environment
from fetch_onnxruntime import fail

BENCHES = build.ROOT / "benches/serving"
# What requests count so many times more than the rest: the inner loops of language models would otherwise be nearly all there is.
OFTEN = 100
# What is counted less often than this while kserved does everything is left out: there is no time to be gained in it, and it would
# lie between what every process needs in memory.
SELDOM = 1000
SHORT = [
    ["embeddings.py", "--seconds", "1", "--rounds", "1"],
    ["graph.py", "--seconds", "1", "--rounds", "1"],
    ["minilm.py", "--seconds", "1", "--rounds", "1"],
    ["shared_memory.py", "--seconds", "1", "--rounds", "1"],
    ["overload.py", "--seconds", "3", "--factors", "1", "10"],
    ["downloads.py", "--large-mib", "256", "--small", "200", "--rounds", "1"],
]


def main():
    if shutil.which("h2load") is None:
        fail("h2load was not found", "it comes with nghttp2 (Debian: `apt install nghttp2-client`)")
    compiler, merge = build.this_compiler(), profdata_tool()
    built = build.build(compiler, build.target() / "instrumented", ["-Cprofile-generate"])
    with tempfile.TemporaryDirectory(prefix="kserved-profile-") as work:
        work = pathlib.Path(work)
        kserved, once, often = placed(built / "kserved", work), work / "once", work / "often"
        # The benchmarks write their tables into a copy.
        tables = shutil.copy(build.ROOT / "BENCHMARKS.md", work)
        everything(kserved, once, tables)
        requests(kserved, often, tables)
        write(merge, once, often, compiler)


def profdata_tool():
    """The program that merges what was counted: of the compiler's own version of LLVM."""
    tool = pathlib.Path(build.rustc("--print", "target-libdir")).parent / "bin/llvm-profdata"
    if not tool.exists():
        fail(f"{tool} was not found", "`rustup component add llvm-tools`")
    return tool


def placed(built, work):
    """The program with the engine's library beside it."""
    programs = work / "programs"
    programs.mkdir()
    (programs / "lib").symlink_to(build.ROOT / "lib")
    return pathlib.Path(shutil.copy(built, programs))


def everything(kserved, counts, tables):
    """Lets kserved do all it can once."""
    run([python(), "-m", "pytest", "tests/clients"], counts, KSERVED_BIN=str(kserved))
    for name, *arguments in SHORT:
        run([python(), BENCHES / name, *arguments, "--kserved", kserved, "--output", tables], counts)


def requests(kserved, counts, tables):
    """Asks small and large models again and again, over every protocol, as many callers do."""
    alone = ["--without", "kserve-sdk", "--without", "echo"]
    run([python(), BENCHES / "bench.py", "--quick", *alone, "--kserved", kserved, "--output", tables], counts)


def python():
    return environment(build.ROOT / "tests/clients/requirements.txt")


def run(command, counts, **variables):
    """Runs a command under which kserved leaves what it counted in a folder when it ends, in a few files that each run adds to."""
    variables = {**os.environ, "LLVM_PROFILE_FILE": str(counts / "%4m.profraw"), **variables}
    subprocess.run(command, check=True, cwd=build.ROOT, env=variables)


def write(merge, once, often, compiler):
    """Puts one profile of all counts where `scripts/build.py` looks for it."""
    work = once.parent
    counted, much, whole = work / "once.proftext", work / "much.proftext", work / "whole.profdata"
    subprocess.run([merge, "merge", "-sparse", "-text", "-o", counted, *sorted(once.iterdir())], check=True)
    much.write_text(without_the_seldom(counted.read_text()))
    weighed = [f"-weighted-input=1,{much}", *(f"-weighted-input={OFTEN},{file}" for file in sorted(often.iterdir()))]
    subprocess.run([merge, "merge", "-sparse", "-o", whole, *weighed], check=True)
    build.PROFILE.parent.mkdir(exist_ok=True)
    # Without the time: the same counts are the same file.
    build.PROFILE.write_bytes(gzip.compress(whole.read_bytes(), 9, mtime=0))
    build.RECORDED_WITH.write_text(f"{compiler}\n")
    print(f"written: {build.PROFILE} ({build.PROFILE.stat().st_size >> 10} KiB)")


def without_the_seldom(profile):
    """A profile in LLVM's form for people, with only those functions that have a part which was counted often."""
    head, *functions = re.split(r"\n(?=\S+\n# Func Hash:\n)", profile)
    return "\n".join([head, *filter(is_counted_often, functions)])


def is_counted_often(function):
    counters = function.split("# Counter Values:\n", 1)[1].split("#", 1)[0]
    return max(map(int, counters.split())) >= SELDOM


if __name__ == "__main__":
    main()
