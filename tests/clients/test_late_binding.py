"""What is linked in place of NVIDIA's libraries: functions jump to the library where it is, and say that there is no device where it is not."""

import os
import platform
import subprocess
import sys

import pytest
from daemon import ROOT

pytestmark = pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="the jumps are written for Linux on x86_64"
)
DECLARED = """
pub unsafe fn culib() -> &'static Lib {}
extern "C" {
    pub fn cuAdd(a: i32) -> i32;
    pub fn cuMissing() -> i32;
}
"""
LIBRARY = """
int cuAdd(int a, int b, int c, int d, int e, int f, int g, int h, double x, double y) {
    return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + (int)(9 * x + 10 * y);
}
"""
PROGRAM = """
#include <stdio.h>
int cuAdd(int, int, int, int, int, int, int, int, double, double);
int cuMissing(void);
int main(void) {
    for (int round = 0; round < 2; round++) printf("%d %d\\n", cuAdd(1, 2, 3, 4, 5, 6, 7, 8, 9.0, 10.0), cuMissing());
    return 0;
}
"""


def compiled(folder, name, text, *flags):
    (folder / f"{name}.c").write_text(text)
    subprocess.run(["cc", "-O2", "-o", folder / name, folder / f"{name}.c", *flags], check=True)
    return folder / name


def test_functions_jump_to_the_library_or_say_that_there_is_no_device(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import cuda  # noqa: PLC0415 - found through the path above

    (tmp_path / "driver" / "sys").mkdir(parents=True)
    (tmp_path / "driver" / "sys" / "mod.rs").write_text(DECLARED)
    names = cuda.functions(tmp_path / "driver")
    assert names == ["cuAdd", "cuMissing"], "the crate's own functions are not NVIDIA's"
    cuda.archive(tmp_path, "sample", cuda.assembly("sample", "libkserved-sample.so.1", names, 100))
    program = compiled(tmp_path, "program", PROGRAM, f"-L{tmp_path}", "-lsample", "-ldl")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    compiled(elsewhere, "libkserved-sample.so.1", LIBRARY, "-shared", "-fPIC")

    def said(folder):
        done = subprocess.run([program], capture_output=True, text=True, check=True, env=os.environ | {"LD_LIBRARY_PATH": str(folder)})
        return done.stdout.splitlines()

    # All arguments arrive, in registers and on the stack; a function that the library lacks answers as without the library.
    assert said(elsewhere) == ["385 100"] * 2
    assert said(tmp_path) == ["100 100"] * 2
    sys.modules.pop("cuda")
