"""The tests of the compiled kernels, with a build that stops at wrong addresses, undefined behaviour or a data race.

Run: python tests/sanitized.py [address | thread]        (`make native SANITIZE=1` runs both; Linux and GCC)

Builds the extension once more under build/sanitize, and runs the tests that call it with the build in its place: with
ASan and UBSan those of kernels, drawing and backend, with TSan those of drawing and backend. A build that was stopped
goes on where it was; nothing is done where nothing changed since the last clean run; without the compiler or its
sanitizers it says so in a line. The first run takes minutes of a core.
"""

import dataclasses
import hashlib
import os
import platform
import resource
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "sanitize"
TOOLS = FOLDER / "tools"
NAME = "understudy.kernels._native"


@dataclasses.dataclass(frozen=True)
class Sanitizer:
    """What to build with, and what to run."""

    flags: str
    libraries: tuple[str, ...]
    tests: tuple[str, ...]
    options: dict[str, str]


BACKEND, DRAWING = "tests/model/test_native_backend.py", "tests/kernels/test_drawing.py"
SANITIZERS = {
    "address": Sanitizer(
        flags="address,undefined",
        libraries=("libasan.so", "libubsan.so", "libstdc++.so"),  # the last, so that exceptions are seen from the start
        tests=("tests/kernels/test_native.py", DRAWING, BACKEND),
        options={
            "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",  # Python keeps memory until it ends
            "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        },
    ),
    "thread": Sanitizer(
        flags="thread",
        libraries=("libtsan.so", "libstdc++.so"),
        tests=(DRAWING, BACKEND),  # the kernels' own tests have no second thread
        options={
            "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
            "OPENBLAS_NUM_THREADS": "1",  # NumPy's own are built without TSan, which sees races there
        },
    ),
}
# Takes the place of the extension that is installed before anything imports it.
RUN = """
import importlib.util, sys
name, path, *arguments = sys.argv[1:]
spec = importlib.util.spec_from_file_location(name, path)
module = sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import pytest
from understudy.kernels.native import native_module
assert native_module() is module
sys.exit(pytest.main(arguments))
"""


def main() -> int:
    """The exit status of the tests; 0 where there is nothing to do."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX") or "c++", "g++"))), None)
    if platform.system() != "Linux" or compiler is None:
        print("Sanitizers: skipped, they need Linux and a C++ compiler (Debian: apt install g++).")
        return 0
    names = sys.argv[1:] or list(SANITIZERS)
    if unknown := set(names) - set(SANITIZERS):
        raise SystemExit(f"Sanitizers: there is no {unknown.pop()}; choose from {', '.join(SANITIZERS)}.")
    return max(check(name, SANITIZERS[name], compiler) for name in names)


def check(name: str, sanitizer: Sanitizer, compiler: str) -> int:
    """Build with one sanitizer and run its tests, unless that was done; the tests' exit status."""
    libraries = [find_library(compiler, library) for library in sanitizer.libraries]
    if missing := [n for n, path in zip(sanitizer.libraries, libraries, strict=True) if path is None]:
        print(f"Sanitizers: {name} skipped, {compiler} has no {missing[0]} (GCC has; name it with CXX=g++).")
        return 0
    stamp, state = FOLDER / f"{name}.clean", fingerprint(sanitizer)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == state:
        print(f"Sanitizers: {name} clean, and nothing has changed since.")
        return 0
    began = cpu_seconds()
    extension = build(name, sanitizer, compiler)
    built = cpu_seconds()
    command = ["env", "LD_PRELOAD=" + " ".join(path for path in libraries if path), sys.executable]
    if setarch := shutil.which("setarch"):  # GCC's older TSan starts only where addresses are not at random
        command = [setarch, "-R", *command]
    limits = ["-o", "timeout=1800"]  # a sanitizer makes code some ten times slower
    status = subprocess.run(
        [*command, "-c", RUN, NAME, str(extension), "-qs", "-p", "no:cacheprovider", *limits, *sanitizer.tests],
        cwd=ROOT,
        env={**os.environ, **sanitizer.options},
        check=False,
    ).returncode
    print(f"Sanitizers: {name}: CPU seconds: {built - began:.0f} to build, {cpu_seconds() - built:.0f} to test.")
    if status == 0:
        stamp.write_text(state, encoding="utf-8")
    return status


def cpu_seconds() -> float:
    """CPU time of the commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def find_library(compiler: str, name: str) -> str | None:
    """The path of a library of the compiler's."""
    asked = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = Path(asked.stdout.strip())
    return str(path.resolve()) if path.is_absolute() else None


def fingerprint(sanitizer: Sanitizer) -> str:
    """Of all that is compiled or run, and of Python."""
    found = hashlib.sha256(sys.version.encode())
    sources = sorted(path for path in (ROOT / "native").rglob("*") if path.suffix in (".cpp", ".h"))
    for path in (*sources, ROOT / "CMakeLists.txt", *(ROOT / test for test in sanitizer.tests), Path(__file__)):
        found.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()


def build(name: str, sanitizer: Sanitizer, compiler: str) -> Path:
    """Build the extension in a folder of its own, with tools in a place that stays, so that nothing is compiled twice.

    Raises:
        CalledProcessError: it does not build.
    """
    environment = {**os.environ, "PYTHONPATH": str(TOOLS)}
    if not TOOLS.exists():
        requirements = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
        fresh = FOLDER / "tools.new"
        shutil.rmtree(fresh, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", str(fresh)]
        subprocess.run([*pip, "cmake", "ninja", *(r for r in requirements if r.startswith("nanobind"))], check=True)
        fresh.rename(TOOLS)
    folder, cmake, ninja = FOLDER / name, TOOLS / "bin" / "cmake", TOOLS / "bin" / "ninja"
    settings = {
        "CMAKE_MAKE_PROGRAM": ninja,
        "CMAKE_CXX_COMPILER": compiler,
        "Python_EXECUTABLE": sys.executable,
        "UNDERSTUDY_SANITIZE": sanitizer.flags,
    }
    define = [f"-D{key}={value}" for key, value in settings.items()]
    subprocess.run([cmake, "-G", "Ninja", "-S", ROOT, "-B", folder, *define], env=environment, check=True)
    subprocess.run([ninja, "-C", folder], env=environment, check=True)
    (extension,) = folder.glob("_native.*.so")
    return extension


if __name__ == "__main__":
    sys.exit(main())
