"""Makes a virtual environment of ROS 2 wheels usable by C and Rust programs. Idempotent; run with that environment's Python.

The wheels are built for Python users only. Three things have to be put right before anything else can link them:

1. They are built for a single middleware and carry no `librmw_implementation.so`, which a client library links.
2. Some C libraries list a Python-only library (`*__rosidl_generator_py.so`) as needed, which no other program can
   resolve. The entry is taken out; the generator libraries' own entries stay, rclpy needs them.
3. Their exported CMake files name the Python and numpy include folders of the machine they were built on.

Usage: mend_ros.py PREFIX
"""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy

BUILD_MACHINE_PYTHON = re.compile(r"/opt/python/cp3\d+-cp3\d+t?/include/python3\.\d+t?")
BUILD_MACHINE_NUMPY = re.compile(
    r"/opt/python/cp3\d+-cp3\d+t?/lib/python3\.\d+t?/site-packages/numpy/_core/include"
)


def link_middleware(lib: Path) -> None:
    """Gives the one middleware that is there the name that client libraries link."""
    target = "librmw_fastrtps_cpp.so"
    if not (lib / target).exists():
        sys.exit(f"error: {lib / target} is missing: the ROS 2 wheels are not all installed")
    link = lib / "librmw_implementation.so"
    if not link.exists():
        link.symlink_to(target)


def drop_python_needs(lib: Path, patchelf: Path) -> int:
    """Removes the Python-only entries from the C libraries' NEEDED lists; returns how many."""
    removed = 0
    for library in sorted(lib.glob("*.so")):
        if library.name.endswith("generator_py.so") or library.is_symlink():
            continue
        needed = subprocess.run(
            [patchelf, "--print-needed", library], check=True, capture_output=True, text=True
        ).stdout.split()
        wrong = [name for name in needed if name.endswith("generator_py.so")]
        if not wrong:
            continue
        # Patched as a copy and renamed, so that an interruption leaves no half-written library.
        copy = library.with_name(library.name + ".mending")
        copy.write_bytes(library.read_bytes())
        copy.chmod(library.stat().st_mode)
        arguments = [argument for name in wrong for argument in ("--remove-needed", name)]
        subprocess.run([patchelf, *arguments, copy], check=True)
        os.replace(copy, library)
        removed += len(wrong)
    return removed


def correct_include_folders(share: Path) -> int:
    """Points the exported CMake files at this interpreter's headers; returns how many files changed."""
    python_include = sysconfig.get_path("include")
    numpy_include = numpy.get_include()
    changed = 0
    for file in share.rglob("*.cmake"):
        text = file.read_text()
        if "/opt/python/cp3" not in text:
            continue
        new = BUILD_MACHINE_NUMPY.sub(lambda _: numpy_include, text)
        new = BUILD_MACHINE_PYTHON.sub(lambda _: python_include, new)
        if new != text:
            copy = file.with_name(file.name + ".mending")
            copy.write_text(new)
            os.replace(copy, file)
            changed += 1
    return changed


def main() -> None:
    """See the module's description."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    prefix = Path(sys.argv[1]).resolve()
    link_middleware(prefix / "lib")
    removed = drop_python_needs(prefix / "lib", prefix / "bin" / "patchelf")
    changed = correct_include_folders(prefix / "share")
    print(f"ROS 2 wheels mended: {removed} library entries removed, {changed} CMake files corrected")


if __name__ == "__main__":
    main()
