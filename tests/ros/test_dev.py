"""Functions of ./dev, which is sourced for it: none of its verbs runs."""

import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import MEETING, ROOT, until

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


def test_cargo_is_asked_in_the_clone(tmp_path):
    """Where ./dev is called a rust-toolchain.toml may choose another one."""
    program(tmp_path / "bin", "cargo", f'[ "$(pwd -P)" = "{ROOT}" ] && echo "cargo 1.95.0 (0000000 2026-01-01)"')
    for verb in ("doctor", "lint"):
        done = bash('cd "$1"; PATH=$1/bin:$PATH; check_prerequisites "$2"', tmp_path, verb)
        assert "a cargo that runs" not in done.stderr and "rustup" not in done.stderr, done.stderr


def test_python_takes_no_modules_from_where_dev_is_called(tmp_path):
    for name in ("pathlib", "venv", "ensurepip", "sysconfig", "types", "clang", "imageio_ffmpeg"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a module of the folder')\n")
    libtorch = tmp_path / "torch" / "lib" / "libtorch_cpu.so"
    libtorch.parent.mkdir(parents=True)
    libtorch.touch()
    (tmp_path / "torch" / "__init__.py").touch()
    (tmp_path / "torch" / "version.py").write_text("__version__ = '2.11.0'\n")
    # A Python that is named by where it is from there, too.
    (tmp_path / "python").symlink_to(sys.executable)
    script = """cd "$1"; unset LIBTORCH SEMANTIC_DEPTH_LIBTORCH SEMANTIC_DEPTH_FFMPEG; venv=$2 ros_from=wheels state=$1/.dev
    for PYTHON in "" ./python; do check_prerequisites doctor; done
    user_libtorch; pip --version >/dev/null; PATH=$1; find_ffmpeg; printf %s "${SEMANTIC_DEPTH_FFMPEG:+ffmpeg}" """
    done = bash(script, tmp_path, sys.prefix)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ffmpeg", ""), done


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


def test_the_users_own_libraries_are_searched_behind_ours(tmp_path):
    """A shared Python without a run path, say; what `./dev shell` has added is not added once more in another one."""
    script = 'root=$1 state=$1/.dev venv=$1/.dev/python ros_from=wheels; set_up_ros; printf %s "$LD_LIBRARY_PATH"'
    own = f"{tmp_path}/.dev/python/lib"
    for before, behind in (
        ("", ""),
        ("/opt/python/lib", ":/opt/python/lib"),
        (f"{tmp_path}/.dev/install/lib:{own}:/a b/lib::/c", ":/a b/lib:/c"),
        ("/other/clone/.dev/install/lib:/other/clone/lib", ":/other/clone/lib"),
    ):
        done = bash(script, tmp_path, LD_LIBRARY_PATH=before, SEMANTIC_DEPTH_DEV="/other/clone" if "other" in before else None)
        assert (done.returncode, done.stdout) == (0, own + behind), done


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


def test_another_python_first_in_path_makes_nothing_anew(tmp_path):
    """Such as an activated environment's; one that is named does, and so does one whose own is gone."""
    made = tmp_path / "dev" / "python-ros"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", made], check=True, timeout=120)
    program(tmp_path / "bin", "python3", f'case "$*" in *pathlib*) echo another;; *) exec "{sys.executable}" "$@";; esac')
    ros = tmp_path / "ros" / "lib" / "librcl.so"
    ros.parent.mkdir(parents=True)
    ros.touch()

    def found(**environment):
        environment = {"PYTHON": None, "SEMANTIC_DEPTH_DEV": None, "AMENT_PREFIX_PATH": None, **environment}
        done = bash("state=$1/dev; PATH=$1/bin:$PATH; find_python", tmp_path, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.rstrip("\n")

    def key(python):
        return bash('"$1" -c "$python_key"', python).stdout

    assert not found().startswith(str(tmp_path)) and key(found()) == key(sys.executable)
    assert found(PYTHON="python3") == found(PYTHON=str(tmp_path / "bin" / "python3")) == "another"
    assert found(AMENT_PREFIX_PATH=str(tmp_path / "ros"), ROS_DISTRO="jazzy") == "another"
    for name in ("python", "pyvenv.cfg"):
        (made / ("bin" if name == "python" else "") / name).unlink()
        assert found() == "another", name


def test_nor_are_python_and_libtorch_of_another_clones_shell(tmp_path):
    other = tmp_path / "other"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", other / ".dev" / "python-ros"], check=True, timeout=120)
    script = """root=$1/clone state=$1/clone/.dev; mkdir "$root"; PATH=$1/other/.dev/python-ros/bin:$PATH PYTHON=
    find_python; user_libtorch"""
    shell = {"SEMANTIC_DEPTH_DEV": str(other), "LIBTORCH": f"{other}/.dev/libtorch-slim/torch", "SEMANTIC_DEPTH_LIBTORCH": None}
    found = bash(script, tmp_path, **shell)
    assert (found.returncode, found.stderr) == (0, ""), found
    assert str(tmp_path) not in found.stdout and os.access(found.stdout.rstrip("\n"), os.X_OK), found.stdout


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
        *[(name, {}, "a folder of plain letters, digits") for name in ("Straße", "o'brien", "a (1)", "a [b]", "a%2Fb", "a,b")],
        ("plain", {"PYTHON": "/nope/python"}, "PYTHON=/nope/python names, which cannot be run"),
        ("plain", {"CC": "nope -O2"}, "compiler (nope -O2, c++ and gcc are looked for)"),
        ("plain", {"SEMANTIC_DEPTH_LIBTORCH": "cpu"}, "SEMANTIC_DEPTH_LIBTORCH as cuda or slim, or unset: it is cpu"),
        ("plain", {"LIBTORCH": "/nope"}, "/nope has no lib/libtorch_cpu.so"),
        ("plain", {"PYTHON": "false"}, "Python 3.10 to 3.14 in PYTHON, or no PYTHON: false is"),
        # Elsewhere there has to be a libtorch of the user's.
        *[(name, {}, None) for name in ("a b", "a.b_c+d-e@f=g#h{i}~!^") if platform.machine() == "x86_64"],
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


def test_colcons_set_up_works_where_pythons_path_has_a_space(tmp_path):
    """By what ./dev makes of it: as colcon writes it, the interpreter's path is two words."""
    prefix = pathlib.Path(os.environ["COLCON_PREFIX_PATH"].split(os.pathsep)[0])
    spaced = tmp_path / "a b"
    spaced.mkdir()
    (spaced / "python").symlink_to(sys.executable)
    shutil.copy(prefix / "_local_setup_util_sh.py", spaced)
    for shell in ("sh", "bash", "zsh"):
        text = (prefix / f"local_setup.{shell}").read_text()
        (spaced / f"local_setup.{shell}").write_text(text.replace('$("$_colcon_python_executable" ', "$($_colcon_python_executable "))
    environment = {**os.environ, "COLCON_PYTHON_EXECUTABLE": str(spaced / "python")}

    def complaints(*command):
        done = subprocess.run(["bash", "-c", *command], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0
        return done.stderr

    def of_both():
        return [complaints('. "$0"', str(spaced / f"local_setup.{shell}")) for shell in ("sh", "bash")]

    assert all(f"{tmp_path}/a: No such file" in said for said in of_both())
    text = (ROOT / "dev").read_text()
    start = text.index("mend_set_up() {")
    mend = text[start : text.index("\n}\n", start) + 3]
    for _ in range(2):
        assert complaints(f'{mend} mend_set_up "$0"', str(spaced)) == ""
        assert of_both() == ["", ""]
    assert '$("$_colcon_python_executable" ' in (spaced / "local_setup.zsh").read_text()


def test_files_of_the_future_are_named(tmp_path):
    """CMake configures a hundred times for one of them, and then gives up."""
    dev = copied(tmp_path / "a clone")
    file = tmp_path / "a clone" / "msg" / "A.msg"
    file.parent.mkdir()
    file.touch()
    for ahead_s, is_named in ((0, False), (3600, True)):
        os.utime(file, (time.time() + ahead_s,) * 2)
        done = subprocess.run([dev, "doctor"], capture_output=True, text=True, timeout=60)
        assert ("  - files that are not of the future, as msg/A.msg is" in done.stderr) == is_named, done.stderr
    command = done.stderr.partition("right, or: ")[2].splitlines()[0]
    subprocess.run(command, shell=True, check=True, timeout=60)
    assert file.stat().st_mtime <= time.time()


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


def test_a_clone_below_another_workspace_is_none_of_its_members(tmp_path):
    (tmp_path / "Cargo.toml").write_text('[workspace]\nmembers = []\n')
    clone = tmp_path / "clone"
    clone.mkdir()
    shutil.copy(ROOT / "Cargo.toml", clone)
    for folder in ("src", "benches"):
        (clone / folder).symlink_to(ROOT / folder)
    command = ["cargo", "metadata", "--no-deps", "--offline", "--format-version", "1"]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["workspace_root"] == str(clone)


def copied(folder):
    """./dev in a folder of its own, so that no verb touches this one's .dev."""
    folder.mkdir()
    return shutil.copy(ROOT / "dev", folder)


def test_through_a_link_it_is_the_scripts_own_folder(tmp_path):
    link = tmp_path / "elsewhere" / "dev"
    link.parent.mkdir()
    link.symlink_to(copied(tmp_path / "clone"))
    for folder in ("clone", "elsewhere"):
        (tmp_path / folder / ".dev").mkdir()
    subprocess.run([link, "clean"], check=True, capture_output=True, timeout=60)
    assert not (tmp_path / "clone" / ".dev").exists() and (tmp_path / "elsewhere" / ".dev").exists()


@pytest.mark.parametrize("verb", ["test", "lint", "build", "doctor", "lock", "clean"])
def test_arguments_that_a_verb_does_not_take_are_refused(tmp_path, verb):
    dev = copied(tmp_path / "clone")
    done = subprocess.run([dev, verb, "--nonsense"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and f"./dev {verb} takes no arguments, found '--nonsense'" in done.stderr, done.stderr
    asked = subprocess.run([dev, verb, "--help"], capture_output=True, text=True, timeout=60)
    assert (asked.returncode, asked.stderr) == (0, "") and "usage: ./dev VERB" in asked.stdout
    assert not (tmp_path / "clone" / ".dev").exists()


def test_what_a_build_leaves_running_does_not_hold_the_lock(tmp_path):
    """As the server of a compiler's cache does; the next ./dev waited for its end. Nor do a user's defaults say how colcon installs."""
    for name in ("cargo", "colcon"):
        program(tmp_path / "bin", name, f'sleep 50 >/dev/null 2>&1 &\necho $! "$COLCON_DEFAULTS_FILE" >>"{tmp_path}/left"')
    for folder in ("build/semantic_depth", "install"):
        (tmp_path / "dev" / folder).mkdir(parents=True)
    (tmp_path / "dev/build/semantic_depth/cargo.env").touch()
    (tmp_path / "dev/install/setup.bash").touch()
    script = """state=$1 PATH=$2:$PATH CARGO_TARGET_DIR=$1/target venv=$1; build_overlay() { :; }
    lock; build; cargo_in_stage test; step name key colcon build; unlock
    flock -n "$1/lock" true && echo free"""
    try:
        done = bash(script, tmp_path / "dev", tmp_path / "bin", COLCON_DEFAULTS_FILE=None)
        left = [line.split() for line in (tmp_path / "left").read_text().splitlines()]
    finally:
        for line in (tmp_path / "left").read_text().splitlines():
            os.kill(int(line.split()[0]), signal.SIGTERM)
    assert (done.returncode, done.stdout) == (0, "free\n"), done.stderr
    assert [line[1:] for line in left] == [["/dev/null"], [], ["/dev/null"]]


@pytest.mark.parametrize("command", ["build", "step name key colcon build", "cargo_in_stage test"])
def test_the_lock_is_held_until_the_build_of_a_killed_dev_ends(tmp_path, command):
    for name in ("cargo", "colcon"):
        program(tmp_path / "bin", name, f'touch "{tmp_path}/began"\nwhile [ ! -e "{tmp_path}/end" ]; do sleep 0.1; done')
    (tmp_path / "build" / "semantic_depth").mkdir(parents=True)
    (tmp_path / "build" / "semantic_depth" / "cargo.env").touch()
    script = f"""state=$1 PATH=$1/bin:$PATH CARGO_TARGET_DIR=$1/target venv=$1; build_overlay() {{ :; }}
    lock; {command}"""
    process = subprocess.Popen(["bash", "-c", f'. "{ROOT}/dev"\n{script}', "bash", tmp_path], stderr=subprocess.DEVNULL)
    is_free = ["flock", "--nonblock", tmp_path / "lock", "true"]
    try:
        until((tmp_path / "began").exists, "the start of the build")
        process.terminate()
        assert process.wait(30) == -signal.SIGTERM
        assert subprocess.run(is_free).returncode == 1
    finally:
        (tmp_path / "end").touch()
    until(lambda: subprocess.run(is_free).returncode == 0, "the end of the build")


@pytest.mark.parametrize("code", [0, 1])
def test_programs_that_cargo_puts_elsewhere_are_not_taken_from_an_older_build(tmp_path, code):
    here = tmp_path / "target" / "release" / "semantic_depth"
    here.parent.mkdir(parents=True)
    here.touch()
    elsewhere = tmp_path / "target" / "x86_64-unknown-linux-gnu" / "release"
    script = 'state=$1 PATH=$2:$PATH CARGO_TARGET_DIR=$1/target venv=$1; build_overlay() { :; }; build'
    program(tmp_path / "bin", "colcon", f'mkdir -p "{elsewhere}"\ntouch "{elsewhere}/semantic_depth"\nexit {code}')
    refused = bash(script, tmp_path, tmp_path / "bin")
    assert refused.returncode == 1 and f"cargo put the programs into {elsewhere}: take build.target" in refused.stderr
    # Once that is mended, what was put there is forgotten. What is in its place stays, for it is not to be made anew.
    program(tmp_path / "bin", "colcon", f"exit {code}")
    done = bash(script, tmp_path, tmp_path / "bin")
    assert done.returncode == 1 and "build.target" not in done.stderr, done.stderr
    assert ("error: the build failed" in done.stderr) == (code == 1), done.stderr
    assert here.exists()


@pytest.fixture
def clone_with_tests(tmp_path):
    """Runs the tests of a clone that has two; what they print, and how it ended."""
    folder = tmp_path / "project" / "clone" / "tests" / "ros"
    folder.mkdir(parents=True)
    (folder / "test_two.py").write_text(
        "import os\nimport pytest\n\n\ndef test_a():\n    print(f\"temporary: {os.environ.get('TMPDIR')}\")\n\n\n"
        "@pytest.mark.alone\ndef test_b():\n    pass\n"
    )

    def run(**environment):
        script = 'root=$1 state=$1/.dev venv=$2; pip() { :; }; step() { :; }; cargo_in_stage() { :; }; run_tests'
        return bash(script, tmp_path / "project" / "clone", sys.prefix, **environment)

    return run


def test_the_clones_tests_are_not_as_a_project_above_has_them(tmp_path, clone_with_tests):
    (tmp_path / "project" / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers --nonsense\n")
    done = clone_with_tests(PYTEST_ADDOPTS="--collect-only --nonsense")
    assert done.returncode == 0 and done.stdout.count("1 passed") == 2, (done.stdout, done.stderr)


def test_the_tests_have_a_folder_that_programs_run_in(tmp_path):
    script = 'state=$1/.dev; choose_temporary_folder; printf %s "$TMPDIR"'
    own, fine, foreign = tmp_path / ".dev" / "tmp", tmp_path / "fine", tmp_path / "Straße"
    fine.mkdir()
    foreign.mkdir()
    # As on a file system that is mounted noexec.
    program(tmp_path / "bin", "chmod", "exit 0")
    path = f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}"
    for environment, expected in (
        ({"TMPDIR": str(fine)}, fine),
        ({"TMPDIR": str(fine), "PATH": path}, own),
        ({"TMPDIR": str(foreign)}, own),
        ({"TMPDIR": "/nowhere"}, own),
        ({"TMPDIR": "."}, own),
    ):
        done = bash(script, tmp_path, **environment)
        assert (done.returncode, done.stdout) == (0, str(expected)), done.stderr
        assert own.exists() == (expected == own) == bool(done.stderr) and not list(fine.iterdir())
        if expected == own:
            (own / "left").touch()
    bash(script, tmp_path, TMPDIR=str(fine))
    assert not own.exists()


def test_why_the_messages_do_not_compile_is_shown(tmp_path):
    package = tmp_path / "tests" / "overlay" / "messages"
    package.mkdir(parents=True)
    (package / "msg").mkdir()
    (package / "msg" / "A.msg").touch()
    about = "<version>0.0.0</version><description/><maintainer email='a@b.c'>a</maintainer><license>a</license>"
    (package / "package.xml").write_text(
        f"<package format='3'><name>messages</name>{about}<export><build_type>cmake</build_type></export></package>"
    )
    (package / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(messages NONE)\n"
        "add_custom_target(all_of_it ALL COMMAND ${CMAKE_COMMAND} -E echo 'a message: the cause' COMMAND ${CMAKE_COMMAND} -E false)\n"
    )
    script = 'root=$1 state=$1/.dev venv=$2; mkdir -p "$state/stamps"; build_overlay'
    done = bash(script, tmp_path, sys.prefix, AMENT_PREFIX_PATH=None)
    assert done.returncode == 1 and "a message: the cause" in done.stdout + done.stderr, (done.stdout, done.stderr)
    assert "error: the build of messages failed: its own words are above" in done.stderr
    assert not (tmp_path / ".dev" / "stamps" / "messages overlay").exists()


def test_demo_and_tests_meet_nobody_and_need_no_server():
    chosen = {name: "127.0.0.1:11811" for name in MEETING}
    done = bash("keep_apart; env", ROS_AUTOMATIC_DISCOVERY_RANGE="SUBNET", ROS_DOMAIN_ID="7", **chosen)
    found = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    assert (found["ROS_AUTOMATIC_DISCOVERY_RANGE"], found["ROS_DOMAIN_ID"]) == ("LOCALHOST", "7")
    assert not set(MEETING) & set(found)


@pytest.mark.parametrize("domain", ["", "0", "232", "0x10", " 5", "010"])
def test_domains_that_there_are_are_taken(domain):
    assert bash('is_domain "$1"', domain).returncode == 0


@pytest.mark.parametrize("domain", ["233", "500", "-1", "abc", "1 ", "5 5", " ", "99999999999", "0xff", "08"])
def test_domains_that_there_are_not_are_refused_before_the_work(domain):
    for verb, is_asked in (("demo", True), ("test", True), ("build", False)):
        done = bash('check_prerequisites "$1"', verb, ROS_DOMAIN_ID=domain)
        assert (f"a ROS_DOMAIN_ID from 0 to 232, or none: it is '{domain}'" in done.stderr) == is_asked, done.stderr


def test_another_ros_than_jazzy_is_not_taken(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "librcl.so").touch()
    sourced = {"AMENT_PREFIX_PATH": str(tmp_path), "SEMANTIC_DEPTH_DEV": None}
    for distro, is_taken in (("humble", False), ("jazzy", True)):
        done = bash("check_prerequisites doctor", ROS_DISTRO=distro, **sourced)
        assert (f"{distro} is sourced" in done.stderr) != is_taken, done.stderr


def test_a_patch_release_of_python_makes_nothing_anew():
    key = bash('"$1" -c "$python_key"', sys.executable).stdout
    assert key == f"{sys.version_info[0]} {sys.version_info[1]} {sys.base_prefix}\n"
    # libtorch's own key does not ask Python at all.
    keys = bash('step() { printf "%s\n" "$2"; }; python=false; SEMANTIC_DEPTH_LIBTORCH=slim set_up_libtorch ""')
    assert (keys.returncode, len(keys.stdout.split())) == (0, 1), keys.stderr


def test_a_folder_in_pip_conf_is_named(tmp_path):
    says = "global.index-url='https://a/simple'"
    lines = [("install.target='/x'", "install.target"), ("global.prefix='/x y'", "global.prefix"), ("", None)]
    for line, named in (*lines, ("global.build-constraint='/x'", "global.build-constraint")):
        program(tmp_path / "bin", "python", f'case "$*" in *"config list"*) cat <<"END"\n{says}\n{line}\nEND\n;; *) echo installed;; esac')
        done = bash("venv=$1 ros_from=wheels; pip install something", tmp_path)
        if named:
            assert done.returncode == 1 and f"error: {named} is set in your pip.conf" in done.stderr, done.stderr
            assert "installed" not in done.stdout
        else:
            assert (done.returncode, done.stdout) == (0, "installed\n"), done.stderr


def test_constraints_of_the_users_pip_are_not_heeded(tmp_path):
    """Our versions are pinned; they conflicted with those of NVIDIA's containers."""
    (tmp_path / "constraints").write_text("pytest==0.1\n")
    (tmp_path / "pip.conf").write_text(f"[global]\nconstraint = {tmp_path}/constraints\n")
    script = "venv=$1 ros_from=wheels; pip install --quiet --dry-run --no-index --no-build-isolation pytest"
    for name, file in (("PIP_CONSTRAINT", "constraints"), ("PIP_BUILD_CONSTRAINT", "constraints"), ("PIP_CONFIG_FILE", "pip.conf")):
        done = bash(script, sys.prefix, **{name: str(tmp_path / file)})
        assert done.returncode == 0, (name, done.stderr)


def test_an_interrupted_pip_is_not_said_to_have_failed(tmp_path):
    # As pip does, it ends by itself at Ctrl-C, with an error.
    text = f'case "$*" in *config*) exit 0;; esac\ntrap "exit 1" INT\ntouch "{tmp_path}/began"\nwhile :; do sleep 0.1; done'
    program(tmp_path / "bin", "python", text)
    command = ["bash", "-c", f'. "{ROOT}/dev"; venv=$1 ros_from=wheels; pip install something', "bash", tmp_path]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    for _ in range(200):
        if (tmp_path / "began").exists():
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "error: interrupted\n")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_clone_of_somebody_elses_is_named(tmp_path):
    dev = copied(tmp_path / "clone")
    (tmp_path / "clone").chmod(0o555)
    done = subprocess.run([dev, "clean"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, "there is nothing to remove"
    done = bash("root=$1 state=$1/.dev; lock", tmp_path / "clone")
    assert done.returncode == 1 and "and you cannot write to it: use a clone of your own" in done.stderr, done.stderr
