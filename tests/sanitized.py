"""Run the tests of the kernels on an extension that is built with the address and undefined-behaviour sanitizers.

Run: python tests/sanitized.py        (`make check` does; Linux and GCC)

Builds into build/sanitize by pip, as users build, and does nothing while neither native/ nor these tests have changed
since the last clean run. Without a compiler or its sanitizers it says so in a line.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "sanitize"
TESTS = ("tests/kernels/test_native.py", "tests/model/test_native_backend.py")
LIBRARIES = ("libasan.so", "libubsan.so", "libstdc++.so")  # the last, so that exceptions are seen from the start
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",  # Python keeps memory until it ends
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
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
    libraries = [find_library(compiler, name) for name in LIBRARIES]
    if missing := [name for name, path in zip(LIBRARIES, libraries, strict=True) if path is None]:
        print(f"Sanitizers: skipped, {compiler} has no {missing[0]} (GCC has; name it with CXX=g++).")
        return 0
    stamp, state = FOLDER / "clean", fingerprint()
    if stamp.exists() and stamp.read_text(encoding="utf-8") == state:
        print("Sanitizers: clean, and nothing has changed since.")
        return 0
    began = time.monotonic()
    extension = build(compiler)
    built = time.monotonic()
    preload = {"LD_PRELOAD": " ".join(path for path in libraries if path)}
    name = "understudy.kernels._native"
    status = subprocess.run(
        [sys.executable, "-c", RUN, name, str(extension), "-q", "-p", "no:cacheprovider", *TESTS],
        cwd=ROOT,
        env={**os.environ, **OPTIONS, **preload},
        check=False,
    ).returncode
    print(f"Sanitizers: built in {built - began:.0f} s, tests took {time.monotonic() - built:.0f} s.")
    if status == 0:
        stamp.write_text(state, encoding="utf-8")
    return status


def find_library(compiler: str, name: str) -> str | None:
    """The path of a library of the compiler's."""
    asked = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = Path(asked.stdout.strip())
    return str(path.resolve()) if path.is_absolute() else None


def fingerprint() -> str:
    """Of all that is compiled or run, and of Python."""
    found = hashlib.sha256(sys.version.encode())
    sources = sorted(path for path in (ROOT / "native").rglob("*") if path.suffix in (".cpp", ".h"))
    for path in (*sources, ROOT / "CMakeLists.txt", *(ROOT / test for test in TESTS), Path(__file__)):
        found.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()


def build(compiler: str) -> Path:
    """Build a wheel with sanitizers and take the extension out of it.

    Raises:
        SystemExit: it does not build.
    """
    shutil.rmtree(FOLDER / "wheel", ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps", str(ROOT)]
    settings = (f"build-dir={FOLDER / 'cmake'}", "cmake.define.UNDERSTUDY_SANITIZE=ON", "install.strip=false")
    for setting in settings:
        command += ["--config-settings", setting]
    environment = {**os.environ, "CXX": compiler, "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1)}
    subprocess.run([*command, "-w", str(FOLDER / "wheel")], env=environment, check=True)
    (wheel,) = (FOLDER / "wheel").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if Path(name).name.startswith("_native.") and name.endswith(".so")]
        if not names:  # pip made a wheel without the extension, because it did not compile
            raise SystemExit("Sanitizers: the extension does not build; pip install -v . shows the compiler's words.")
        return Path(archive.extract(names[0], FOLDER / "wheel"))


if __name__ == "__main__":
    sys.exit(main())
