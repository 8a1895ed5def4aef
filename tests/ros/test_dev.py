"""Functions of ./dev, which is sourced for it: none of its verbs runs."""

import json
import os
import platform
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

BUILDS = ("build", "install", "build-overlay", "overlay")


def bash(script, *arguments, **environment):
    """Runs lines of bash after ./dev; arguments are $1 and so on."""
    command = ["bash", "-c", f'. "{ROOT}/dev"\n{script}', "bash", *map(str, arguments)]
    environment = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def program(folder, name, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(("verb", "is_asked"), [("lint", True), ("test", True), ("demo", False), ("doctor", False)])
def test_rustfmt_and_clippy_are_asked_for_where_they_are_needed(tmp_path, verb, is_asked):
    program(tmp_path / "bin", "cargo", '[ "$1" = --version ] && echo "cargo 1.95.0 (0000000 2026-01-01)"')
    done = bash('PATH=$1:$PATH; check_prerequisites "$2"', tmp_path / "bin", verb)
    assert ("rustup component add rustfmt clippy" in done.stderr) == is_asked, done.stderr
    assert "rustup update" not in done.stderr
    if is_asked:
        assert done.returncode == 1


@pytest.fixture
def dropped(tmp_path):
    """Makes folders of a build, looks with which Python, ROS 2 and root they were made, and says which are left."""
    state, venv = tmp_path / "dev", tmp_path / "venv"
    (state / "stamps").mkdir(parents=True)
    program(venv, "3.12", "echo 3.12 /usr")
    program(venv, "3.13", "echo 3.13 /usr")
    for name in ("jazzy", "kilted"):
        (tmp_path / name / "lib").mkdir(parents=True)
        (tmp_path / name / "lib" / "librcl.so").touch()

    def look(root="/clone", python="3.12", ros="jazzy"):
        made = [state / name for name in BUILDS] + [state / "target"]
        for folder in made:
            folder.mkdir(exist_ok=True)
        stamp = state / "stamps" / "messages overlay"
        stamp.touch()
        (venv / "bin").mkdir(exist_ok=True)
        (venv / "bin" / "python").unlink(missing_ok=True)
        (venv / "bin" / "python").symlink_to(venv / python)
        prefixes = [str((state if name in BUILDS else tmp_path) / name) for name in ros.split()]
        script = "root=$1 state=$2 venv=$3; drop_foreign_builds"
        done = bash(script, root, state, venv, AMENT_PREFIX_PATH=os.pathsep.join(prefixes))
        assert done.returncode == 0, done.stderr
        left = {folder.name for folder in made if folder.exists()}
        # What is removed is said, and made anew.
        assert ("removing" in done.stderr) == (left != {*BUILDS, "target"}) == (not stamp.exists())
        return left

    return look


def test_what_was_built_with_other_paths_is_removed(dropped):
    whole = {*BUILDS, "target"}
    # Made before there was a stamp; then as every day, and inside `./dev shell`, where our own folders are on the path.
    assert dropped() == dropped() == dropped(ros="install overlay jazzy") == dropped(ros="jazzy workspace") == whole
    for change in ({"root": "/moved"}, {"python": "3.13"}, {"ros": "kilted"}):
        assert dropped(**change) == {"target"}, change
        assert dropped(**change) == whole, change
        assert dropped() == {"target"}


def test_a_ros_of_the_users_is_told_from_our_own(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "librcl.so").touch()
    prefixes = f"/nowhere{os.pathsep}{tmp_path}"
    sourced = {"ROS_DISTRO": "jazzy", "AMENT_PREFIX_PATH": prefixes, "SEMANTIC_DEPTH_DEV": None}
    assert bash("ros_is_sourced", **sourced).returncode == 0
    for change in ({"ROS_DISTRO": None}, {"AMENT_PREFIX_PATH": "/nowhere"}, {"SEMANTIC_DEPTH_DEV": str(ROOT)}):
        assert bash("ros_is_sourced || exit 3", **{**sourced, **change}).returncode == 3, change


def test_ffmpeg_is_the_users_own_or_that_of_the_test_tools(tmp_path):
    script = 'venv=$1 PATH=$2; find_ffmpeg; printf %s "${SEMANTIC_DEPTH_FFMPEG:-none}"'
    (tmp_path / "empty").mkdir()
    unset = {"SEMANTIC_DEPTH_FFMPEG": None}
    found = bash(script, sys.prefix, tmp_path / "empty", **unset)
    assert os.access(found.stdout, os.X_OK), found
    assert bash(script, sys.prefix, tmp_path / "empty", SEMANTIC_DEPTH_FFMPEG="/my/ffmpeg").stdout == "/my/ffmpeg"
    program(tmp_path / "bin", "ffmpeg", "exit 0")
    assert bash(script, sys.prefix, tmp_path / "bin", **unset).stdout == "none"
    # Without one there is none, and no error.
    program(tmp_path / "broken" / "bin", "python", "exit 1")
    nothing = bash(script, tmp_path / "broken", tmp_path / "empty", **unset)
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (0, "none", "")


def test_r2r_generates_its_bindings_whenever_it_is_built(tmp_path):
    """What it takes from its own cache lacks what it tells the compiler beside them (r2r 0.9.7)."""
    text = (ROOT / "scripts" / "cargo.env.in").read_text()
    text = text.replace("@SEMANTIC_DEPTH_CARGO_TARGET_DIR@", str(tmp_path / "a target"))
    (tmp_path / "cargo.env").write_text(text.replace("@remembered_environment@", ""))
    bindings = tmp_path / "a target" / "release" / "build" / "r2r-0f3c" / "out" / "hash"
    other = bindings.parents[2] / "r2r_rcl-0f3c" / "out" / "hash"
    for folder in (bindings, other):
        folder.mkdir(parents=True)
        (folder / "done").touch()
        (folder / "bindings.rs").touch()
    # The second time there is nothing to remove.
    for _ in range(2):
        done = subprocess.run(["sh", "-euc", ". ./cargo.env"], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), done
    assert [file.name for file in bindings.iterdir()] == ["bindings.rs"]
    assert len(list(other.iterdir())) == 2


@pytest.mark.parametrize(
    ("first", "later", "expected"),
    [
        # A later build in a new shell is the same build.
        ({"LIBTORCH": "/it's a/torch", "LIBTORCH_CXX11_ABI": "0", "LIBCLANG_PATH": "/clang"}, {}, ("/it's a/torch", "0", "", "/clang")),
        # Who names another libtorch means it.
        ({"LIBTORCH": "/a", "LIBTORCH_CXX11_ABI": "0"}, {"LIBTORCH": "/b"}, ("/b", "", "", "")),
        ({"LIBTORCH": "/a", "LIBCLANG_PATH": "/clang"}, {"LIBTORCH_USE_PYTORCH": "1"}, ("", "", "1", "/clang")),
        ({"LIBTORCH": "/a"}, {"LIBCLANG_PATH": "/clang"}, ("/a", "", "", "/clang")),
        ({}, {}, ("", "", "", "")),
    ],
)
def test_a_later_build_needs_no_exports(tmp_path, first, later, expected):
    names = ("LIBTORCH", "LIBTORCH_CXX11_ABI", "LIBTORCH_USE_PYTORCH", "LIBCLANG_PATH")
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("LIBTORCH", "LIBCLANG", "BINDGEN"))}
    script = tmp_path / "configure.cmake"
    scripts = ROOT / "scripts"
    script.write_text(
        f'include("{scripts}/remember_environment.cmake")\n'
        f'set(SEMANTIC_DEPTH_CARGO_TARGET_DIR "{tmp_path}")\n'
        f'configure_file("{scripts}/cargo.env.in" "{tmp_path}/cargo.env" @ONLY)\n'
    )
    subprocess.run(["cmake", "-P", str(script)], check=True, timeout=60, env={**bare, **first})
    show = " ".join(f'"${{{name}-}}"' for name in names)
    done = subprocess.run(
        ["sh", "-euc", f". ./cargo.env; printf '%s\\n' {show}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, env={**bare, **later},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done
    assert tuple(done.stdout.splitlines()) == expected


def test_the_python_of_dev_shell_is_not_taken_for_the_users(tmp_path):
    """`./dev` may have to replace it, and could not go on with it then."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "dev" / "venv"], check=True, timeout=120)
    found = bash('state=$1; PATH=$1/venv/bin:$PATH PYTHON=; find_python', tmp_path / "dev")
    assert found.returncode == 0, found.stderr
    assert os.access(found.stdout.strip(), os.X_OK) and not found.stdout.startswith(str(tmp_path)), found.stdout


@pytest.mark.parametrize(
    ("libtorch", "kind", "expected"),
    [
        ("/a/libtorch", None, "/a/libtorch"),
        # Of `./dev shell`.
        ("{state}/libtorch-slim/torch", None, ""),
        ("{state}/libtorch-slim/torch", "cuda", ""),
        (None, "slim", ""),
        ("/a/libtorch", "cuda", "/a/libtorch"),
    ],
)
def test_which_libtorch_is_the_users(tmp_path, libtorch, kind, expected):
    # A python3 that has a torch would be asked last; this one has none.
    program(tmp_path / "bin", "python3", "exit 1")
    environment = {"LIBTORCH": libtorch and libtorch.format(state=tmp_path), "SEMANTIC_DEPTH_LIBTORCH": kind}
    found = bash('state=$1; PATH=$1/bin:$PATH; user_libtorch', tmp_path, **environment)
    assert (found.returncode, found.stdout) == (0, expected), found.stderr
    if expected and kind:
        refused = bash('libtorch_fault "$LIBTORCH"', **environment)
        assert "LIBTORCH or SEMANTIC_DEPTH_LIBTORCH, not both" in refused.stdout


@pytest.mark.parametrize(
    ("folder", "environment", "words"),
    [
        ("Straße", {}, "a folder without letters beyond ASCII"),
        ("o'brien", {}, "a folder without letters beyond ASCII"),
        ("plain", {"PYTHON": "/nope/python"}, "PYTHON=/nope/python names, which cannot be run"),
        ("plain", {"CC": "nope -O2"}, "compiler (nope -O2, c++ and gcc are looked for)"),
        ("plain", {"SEMANTIC_DEPTH_LIBTORCH": "cpu"}, "SEMANTIC_DEPTH_LIBTORCH as cuda or slim, or unset: it is cpu"),
        ("plain", {"LIBTORCH": "/nope"}, "/nope has no lib/libtorch_cpu.so"),
        # Elsewhere there has to be a libtorch of the user's.
        *[("a b", {}, None)] * (platform.machine() == "x86_64"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_begun(tmp_path, folder, environment, words):
    place = tmp_path / folder
    place.mkdir()
    shutil.copy(ROOT / "dev", place)
    kept = {name: value for name, value in os.environ.items() if "LIBTORCH" not in name and name != "SEMANTIC_DEPTH_DEV"}
    done = subprocess.run([place / "dev", "doctor"], env={**kept, **environment}, capture_output=True, text=True, timeout=60)
    assert done.returncode == (1 if words else 0), done.stderr
    assert not words or ("  - " in done.stderr and words in done.stderr), done.stderr
    assert not (place / ".dev").exists()


@pytest.mark.parametrize("header", ["headeronly/version.h", "csrc/api/include/torch/version.h"], ids=["new", "old"])
@pytest.mark.parametrize(
    ("version", "environment", "words"),
    [
        ((2, 11), {}, ()),
        ((2, 5), {}, ("a libtorch 2.5: expected 2.11", "torch==2.11.0", "LIBTORCH_BYPASS_VERSION_CHECK=1")),
        ((2, 5), {"LIBTORCH_BYPASS_VERSION_CHECK": "1"}, ()),
        (None, {}, ("expected the folder of a libtorch 2.11, with lib/libtorch_cpu.so", "torch==2.11.0")),
    ],
)
def test_the_build_begins_with_a_look_at_libtorch(tmp_path, header, version, environment, words):
    if version:
        (tmp_path / "lib").mkdir()
        (tmp_path / "lib" / "libtorch_cpu.so").touch()
        path = tmp_path / "include" / "torch" / header
        path.parent.mkdir(parents=True)
        major, minor = version
        path.write_text(
            f"#pragma once\n/// Indicates the major version.\n#define TORCH_VERSION_MAJOR {major}\n"
            f'#define TORCH_VERSION_MINOR {minor}\n#define TORCH_VERSION_PATCH 9\n#define TORCH_VERSION \\\n  "{major}.{minor}.9"\n'
        )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LIBTORCH")}
    done = subprocess.run(
        ["cmake", "-P", str(ROOT / "scripts" / "check_libtorch.cmake")],
        capture_output=True, text=True, timeout=60, env={**kept, "LIBTORCH": str(tmp_path), **environment},
    )  # fmt: skip
    said = " ".join(done.stderr.split())
    assert (done.returncode != 0) == bool(words), said
    assert all(word in said for word in words), said


@pytest.mark.parametrize("features", [(), ("--no-default-features",)], ids=["ros", "without_ros"])
def test_nothing_is_compiled_twice_for_the_tests(features, tmp_path):
    """Where a dependency of the tests asks another one for a feature that the build does not, `cargo test` after `cargo build`
    compiles that one and all above it, r2r, tch and this crate, once more (minutes): see Cargo.toml."""

    def units(*command):
        command = ["cargo", *command, "--release", "--locked", *features, "--unit-graph", "-Zunstable-options"]
        # Only cargo can tell, which shows it to nobody else.
        environment = {**os.environ, "RUSTC_BOOTSTRAP": "1", "CARGO_TARGET_DIR": str(tmp_path)}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment)
        if done.returncode and "unit-graph" in done.stderr:
            pytest.skip(f"this cargo has no unit graph: {done.stderr}")
        assert done.returncode == 0, done.stderr
        return {
            (
                unit["pkg_id"].rpartition("#")[2],
                unit["target"]["name"],
                unit["mode"],
                unit["platform"],
                unit["profile"]["opt_level"],
                tuple(sorted(unit["features"])),
            )
            for unit in json.loads(done.stdout)["units"]
        }

    built, tested = units("build", "--bins"), units("test")
    assert len(built) > 200 and len(tested) > len(built)
    assert built <= tested, f"with these features in the build alone: {sorted(built - tested, key=str)}"
