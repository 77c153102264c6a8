"""Runs a command in an environment that can compile kserved's `cuda` feature; fetches NVIDIA's compiler the first time.

Run: python3 scripts/cuda.py cargo build --release --features cuda    (`make cuda` does that)

Neither a GPU nor an installed CUDA is needed to compile. The compiler for kernels comes out of wheels that are fetched by name
with pip and checked by sha256. NVIDIA's libraries are not linked: the program looks for them when a model first asks for a GPU
(see `late_binding`), so it starts on machines without them too.

All of it is kept in $KSERVED_CACHE/cuda, or .cache/cuda without a cache folder. CUDA_COMPUTE_CAP names the GPUs that kernels are
compiled for, e.g. 86 or 90; without it those of this machine, and on one without a GPU 90.
"""

import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

from fetch_onnxruntime import check, fail

VERSION = "13.0"
TAG = "py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"
OLD_TAG = "py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl"
WHEELS = {
    f"nvidia_cuda_nvcc-13.0.88-{TAG}": "56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03",
    f"nvidia_nvvm-13.0.88-{OLD_TAG}": "c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0",
    f"nvidia_cuda_crt-13.0.88-{TAG}": "2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4",
    f"nvidia_cuda_runtime-13.0.96-{TAG}": "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
    f"nvidia_cuda_cccl-13.0.85-{TAG}": "e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649",
}
# Where the wheels put their files, one beside the other.
TREE = "nvidia/cu13"
# Library, the module of the crate `cudarc` that declares its functions, and what these answer where there is no library:
# no device, or not initialised, in each library's own numbers.
LIBRARIES = [
    ("cuda", "libcuda.so.1", "driver", 100),
    ("cublas", "libcublas.so.13", "cublas", 1),
    ("cublasLt", "libcublasLt.so.13", "cublaslt", 1),
    ("curand", "libcurand.so.10", "curand", 101),
    ("nvrtc", "libnvrtc.so.13", "nvrtc", 1),
]
ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("KSERVED_CACHE") or ROOT / ".cache")


def main():
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        fail(
            f"the `cuda` feature is compiled on Linux x86_64, not on `{platform.system()} {platform.machine()}`",
            "elsewhere build without it: `make build`",
        )
    if len(sys.argv) < 2:
        fail("no command to run", "python3 scripts/cuda.py cargo build --release --features cuda")
    home = toolkit()
    late = late_binding(home)
    # Of a toolkit that is installed nothing shall be linked.
    environment = {name: value for name, value in os.environ.items() if name not in ("CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR", "CUDNN_LIB")}
    environment |= {
        "CUDA_HOME": str(home),
        "CUDA_PATH": str(home),
        "NVCC": str(home / "bin/nvcc"),
        "CUDARC_CUDA_VERSION": VERSION.replace(".", "0") + "0",
        "CUDA_COMPUTE_CAP": compute_capability(),
        "CUDAFORGE_THREADS": os.environ.get("CUDAFORGE_THREADS") or str(os.cpu_count() or 1),
        "PATH": f"{home / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        # The linker's own way: with a flag for rustc all crates would be compiled anew.
        "LIBRARY_PATH": os.pathsep.join(filter(None, [str(late), os.environ.get("LIBRARY_PATH")])),
    }
    os.execvpe(sys.argv[1], sys.argv[1:], environment)


def compute_capability():
    """What kernels are compiled for."""
    if asked := os.environ.get("CUDA_COMPUTE_CAP"):
        return asked
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
        if found:
            return found[0].replace(".", "")
    return "90"


def toolkit():
    """The folder with NVIDIA's compiler, its headers and its runtime."""
    folder = CACHE / "cuda" / VERSION
    home, stamp = folder / TREE, folder / ".wheels"
    wanted = "\n".join(WHEELS.values())
    if stamp.is_file() and stamp.read_text() == wanted:
        return home
    shutil.rmtree(folder, ignore_errors=True)
    for wheel in wheels():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    for program in [*(home / "bin").iterdir(), *(home / "nvvm/bin").iterdir()]:
        program.chmod(0o755)
    stamp.write_text(wanted)
    return home


def wheels():
    """The paths of all wheels in the cache, their hashes checked."""
    folder = CACHE / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in WHEELS if not (folder / name).is_file()]
    if missing:
        print("fetching NVIDIA's compiler (about 105 MB)", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=folder) as partial:
            download(missing, partial)
            for name in missing:
                check(pathlib.Path(partial) / name, WHEELS[name])
                (pathlib.Path(partial) / name).rename(folder / name)
    for name, sha256 in WHEELS.items():
        check(folder / name, sha256)
    return [folder / name for name in WHEELS]


def download(names, folder):
    pinned = ["==".join(name.split("-")[:2]).replace("_", "-") for name in names]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--platform", "manylinux2014_x86_64", "--platform", "manylinux2010_x86_64", "--dest", folder]
    done = subprocess.run([*command, *pinned], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        fail(f"{', '.join(pinned)} could not be fetched with pip", "the first build needs a package index that pip can reach")


def late_binding(home):
    """A folder with archives to link in place of NVIDIA's libraries.

    Each function jumps through a slot. The first call fills it: with the function of the library where the machine has it, else
    with one that says there is no device. So the program has no need of the libraries to start.
    """
    folder = CACHE / "cuda" / "late"
    sources = bindings()
    stamp = folder / ".made"
    made = f"{VERSION} {sources} {pathlib.Path(__file__).stat().st_mtime_ns}"
    if stamp.is_file() and stamp.read_text() == made:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, file, module, absent in LIBRARIES:
        archive(folder, name, assembly(name, file, functions(sources / module), absent))
    shutil.copy(home / "lib/libcudart_static.a", folder / "libcudart.a")
    stamp.write_text(made)
    return folder


def bindings():
    """The sources of the crate that calls NVIDIA's libraries, of the version that Cargo.lock names."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--features", "cuda", "--filter-platform"]
    done = subprocess.run([*command, "x86_64-unknown-linux-gnu"], cwd=ROOT, capture_output=True, text=True, check=False)
    found = re.search(r'"manifest_path":"([^"]*/cudarc-[^"/]*)/Cargo.toml"', done.stdout)
    if not found:
        sys.stderr.write(done.stderr)
        fail("the crate `cudarc` was not found", "`cargo fetch --locked` gets the crates that Cargo.lock names")
    return pathlib.Path(found[1]) / "src"


def functions(module):
    text = "".join(path.read_text() for path in sorted((module / "sys").rglob("*.rs")))
    # NVIDIA's own have a capital behind the library's name; the crate has functions of its own, which do not.
    names = sorted(set(re.findall(r"\bfn ((?:cu|cublas|cublasLt|curand|nvrtc)[A-Z]\w*)\s*\(", text)))
    if not names:
        fail(f"no functions were found in {module}", "this script reads the declarations of the crate `cudarc`: has it changed?")
    return names


def assembly(name, file, names, absent):
    """One jump for each function, and what fills the slots."""
    lines = [".text"]
    for at, function in enumerate(names):
        lines += [
            f".globl {function}",
            f".type {function},@function",
            f"{function}:",
            f"    mov .Lslots+{8 * at}(%rip), %rax",
            "    test %rax, %rax",
            "    je 1f",
            "    jmp *%rax",
            f"1:  lea .Lslots+{8 * at}(%rip), %r11",
            f"    lea .Lname{at}(%rip), %r10",
            "    jmp .Lbind",
        ]
    integers = ["rdi", "rsi", "rdx", "rcx", "r8", "r9"]
    # Arguments of the function stay where they are while its address is looked for. 184 bytes keep the stack on sixteen.
    lines += [".Lbind:", "    sub $184, %rsp"]
    lines += [f"    mov %{register}, {8 * at}(%rsp)" for at, register in enumerate(integers)]
    lines += [f"    movups %xmm{at}, {48 + 16 * at}(%rsp)" for at in range(8)]
    lines += ["    lea .Lfile(%rip), %rdi", "    mov %r10, %rsi", "    mov %r11, %rdx", "    lea .Labsent(%rip), %rcx"]
    lines += ["    call kserved_late_bind"]
    lines += [f"    movups {48 + 16 * at}(%rsp), %xmm{at}" for at in range(8)]
    lines += [f"    mov {8 * at}(%rsp), %{register}" for at, register in enumerate(integers)]
    lines += ["    add $184, %rsp", "    jmp *%rax"]
    lines += [".Labsent:", f"    mov ${absent}, %eax", "    ret"]
    lines += [".section .rodata", f'.Lfile: .string "{file}"']
    lines += [f'.Lname{at}: .string "{function}"' for at, function in enumerate(names)]
    lines += [".bss", ".balign 8", f".Lslots: .skip {8 * len(names)}"]
    lines += ['.section .note.GNU-stack,"",@progbits', ""]
    return "\n".join(lines)


BIND = """
#include <dlfcn.h>
#include <stddef.h>

/* Fills the slot of a function: with the library's own, or with `absent`. Threads that come at once find the same. */
void *kserved_late_bind(const char *file, const char *name, void **slot, void *absent) {
    void *library = dlopen(file, RTLD_NOW | RTLD_GLOBAL);
    void *found = library == NULL ? NULL : dlsym(library, name);
    found = found == NULL ? absent : found;
    __atomic_store_n(slot, found, __ATOMIC_RELEASE);
    return found;
}
"""


def archive(folder, name, source):
    with tempfile.TemporaryDirectory(dir=folder) as work:
        work = pathlib.Path(work)
        (work / "jumps.s").write_text(source)
        (work / "bind.c").write_text(BIND)
        objects = [work / f"{name}_jumps.o", work / f"{name}_bind.o"]
        for text, binary in zip([work / "jumps.s", work / "bind.c"], objects, strict=True):
            run(["cc", "-c", "-O2", "-fPIC", "-o", binary, text])
        run(["ar", "crs", folder / f"lib{name}.a", *objects])


def run(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        fail(f"`{command[0]}` failed", "a C compiler with binutils is needed (Debian: `apt install build-essential`)")


if __name__ == "__main__":
    main()
