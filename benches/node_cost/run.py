#!/usr/bin/env python3
"""What semantic_depth_node costs beside its network, next to an rclpy node that does the same with NumPy and PyTorch.

Both run in turn, several rounds, on a real ROS 2 graph, between rclpy peers that publish rendered street pictures and
listen to labels, depth and timing. Printed are medians over the rounds and the ratio. README.md says what the figures mean.
"""

import argparse
import contextlib
import datetime
import itertools
import json
import math
import multiprocessing
import os
import pathlib
import platform
import shlex
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import peers

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CAMERA_NAMES = ("front", "left", "right", "rear", "rear_left", "rear_right", "wide", "tele")
START_LIMIT_S = 120.0
QUIET_S = 1.0
IDLE_S = 2.0
WARM_UP = 5
PERCENTILES = (50, 95, 99, 100)


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(n) for n in text.split(",")]  # noqa: E731
    sizes = lambda text: [tuple(int(n) for n in size.split("x")) for size in text.split(",")]  # noqa: E731
    p.add_argument("--cameras", type=numbers, default=[1, 3, 6], help="numbers of cameras (default 1,3,6)")
    p.add_argument("--sizes", type=sizes, default=[(2048, 1024), (640, 480)], help="default 2048x1024,640x480")
    p.add_argument("--rounds", type=int, default=3, help="each runs both nodes once, in turn (default 3)")
    p.add_argument("--only", choices=("node", "python"), help="run one of the two")
    p.add_argument("--light-hz", type=float, default=2.0, help="frames a second over all cameras, light load (default 2)")
    p.add_argument("--light-frames", type=int, default=30, help="frames over all cameras, light load (default 30)")
    p.add_argument("--overload-hz", type=float, default=30.0, help="the same for overload: more than the network can do")
    p.add_argument("--overload-s", type=float, default=8.0, help="seconds of overload (default 8; 0: leave it out)")
    p.add_argument("--no-copies", action="store_true", help="do not count copies (needs a C compiler)")
    p.add_argument("--listen", choices=("reliable", "best_effort"), default="reliable", help="the listener's reliability")
    p.add_argument("--threads", type=int, default=1, help="threads of the network; above 1 its CPU time is not known")
    p.add_argument("--argmax", choices=("full", "network"), default="full",
                   help="Python node: arg-max at full size as semantic_depth defines it, or at the network's, enlarged")
    p.add_argument("--node", type=pathlib.Path, help="default $SEMANTIC_DEPTH_NODE or the installed one")
    p.add_argument("--tool", type=pathlib.Path, help="default $SEMANTIC_DEPTH_TOOL or the installed one")
    p.add_argument("--model", type=pathlib.Path, help="model folder; default $SEMANTIC_DEPTH_MODEL or the installed one")
    p.add_argument("--node-arg", action="append", default=[], metavar="NAME:=VALUE", help="further parameters of the node")
    p.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="environment of both nodes")
    p.add_argument("--python", default=sys.executable, help="interpreter of the Python node")
    p.add_argument("--torch-path", help="folder with torch, where the interpreter does not have it (pip install --target)")
    p.add_argument("--profile", type=pathlib.Path, default=ROOT / "config" / "fastdds.xml", help="Fast DDS profile of all")
    p.add_argument("--perf", type=pathlib.Path, help="folder for a `perf record` of each node under light load")
    p.add_argument("--realtime", action="store_true",
                   help="nodes under SCHED_RR (needs the right to): CPU times on a machine that others use too")
    p.add_argument("--domain", type=int, default=41, help="ROS domain (default 41)")
    p.add_argument("--json", type=pathlib.Path, help="write everything that was measured to this file")
    a = p.parse_args()
    if not 1 <= min(a.cameras) <= max(a.cameras) <= len(CAMERA_NAMES):
        p.error(f"--cameras: 1 to {len(CAMERA_NAMES)}")
    if a.rounds < 1 or a.light_hz <= 0 or a.overload_hz <= 0 or a.light_frames < 1:
        p.error("rounds, rates and frames must be above 0")
    if bad := [pair for pair in a.env if "=" not in pair]:
        p.error(f"--env: {bad[0]!r} is not NAME=VALUE")
    if not a.profile.is_file():
        p.error(f"--profile: there is no file {a.profile}")
    a.node = a.node or installed("lib/semantic_depth/semantic_depth_node", "SEMANTIC_DEPTH_NODE")
    a.tool = a.tool or installed("lib/semantic_depth/semantic_depth", "SEMANTIC_DEPTH_TOOL")
    a.model = a.model or installed("share/semantic_depth/models/street/model.yaml", "SEMANTIC_DEPTH_MODEL")
    if a.model.is_file():
        a.model = a.model.parent
    return a


def installed(relative, variable):
    """A file that an environment variable names, or of the installed package."""
    if named := os.environ.get(variable):
        return pathlib.Path(named)
    for prefix in filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)):
        if (pathlib.Path(prefix) / relative).exists():
            return pathlib.Path(prefix) / relative
    sys.exit(f"{relative} was not found: source the workspace (or ./dev shell), or set {variable}")


def pictures(tool, folder):
    """A few frames of a rendered drive, 2048x1024."""
    from PIL import Image

    command = [tool, "render", "--out", folder, "--splits", "val=1", "--frames", "5", "--rate", "2"]
    subprocess.run([*command, "--no-stereo", "--no-exact-depth"], check=True, capture_output=True)
    files = sorted(pathlib.Path(folder).glob("leftImg8bit/**/*.png"))
    if not files:
        sys.exit(f"{tool} render made no pictures")
    return [Image.open(f).convert("RGB") for f in files]


def fit(picture, width, height):
    """Cut to the aspect ratio about the centre, and resized: (width, height, rgb8 bytes)."""
    w, h = picture.size
    cut_w, cut_h = min(w, h * width / height), min(h, w * height / width)
    box = ((w - cut_w) / 2, (h - cut_h) / 2, (w + cut_w) / 2, (h + cut_h) / 2)
    return width, height, picture.resize((width, height), box=box).tobytes()


class Cpu:
    """CPU time of a process: of each of its threads in ns, as the kernel's scheduler accounts it."""

    def __init__(self, pid):
        self.threads = {}
        self.delays = {}
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            # A thread may end meanwhile.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                run_ns, delay_ns, _ = map(int, (task / "schedstat").read_text().split())
                key = (int(task.name), (task / "comm").read_text().strip())
                self.threads[key], self.delays[key] = run_ns, delay_ns
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        self.minor_faults = int(stat[7])
        self.user_ticks, self.system_ticks = int(stat[11]), int(stat[12])

    def since(self, before):
        """ns by role, how much of its time the thread that runs the network waited for a core, faults."""
        roles, network_thread = {}, None
        for key in sorted(self.threads):
            tid, name = key
            ns = self.threads[key] - before.threads.get(key, 0)
            if tid == min(t for t, _ in self.threads):
                role = "main"
            elif name == "inference" and network_thread is None:
                role, network_thread = "inference", key
            elif name == "inference":
                role = "libtorch"  # its threads carry the name of the one that made them
            elif name.startswith("worker-"):
                role = "workers"
            elif name.startswith("dds"):
                role = "dds"
            else:
                role = name
            roles[role] = roles.get(role, 0) + ns
        network_thread = network_thread or min(self.threads)
        run_ns = self.threads[network_thread] - before.threads.get(network_thread, 0)
        delay_ns = self.delays[network_thread] - before.delays.get(network_thread, 0)
        ticks = self.user_ticks + self.system_ticks - before.user_ticks - before.system_ticks
        return {
            "by_role_ns": roles,
            "total_ns": sum(roles.values()),
            "kept_waiting": delay_ns / max(1, run_ns + delay_ns),
            "minor_faults": self.minor_faults - before.minor_faults,
            "system_share": (self.system_ticks - before.system_ticks) / ticks if ticks else 0.0,
        }


class CopyTable:
    """The table that copies.c writes."""

    SLOTS = 4096

    def __init__(self, folder):
        self.library = pathlib.Path(folder) / "copies.so"
        self.file = pathlib.Path(folder) / "copies.table"
        build = ["cc", "-O2", "-fPIC", "-shared", "-fno-builtin", "-o", self.library, HERE / "copies.c", "-ldl"]
        subprocess.run(build, check=True)

    def environment(self):
        self.file.write_bytes(bytes(16 * self.SLOTS))
        return {"LD_PRELOAD": str(self.library), "COPIES_TABLE": str(self.file)}

    def read(self):
        """Size -> calls."""
        return {size: calls for size, calls in struct.iter_unpack("<QQ", self.file.read_bytes()) if calls}


def copies(before, after, frames, width, height):
    """Copied bytes a frame. Whole images are told by their size, which may have a serialised header of up to 4 KiB."""
    payloads = {"input": 3 * width * height, "labels": width * height, "depth": 4 * width * height}
    result = {"input": 0.0, "labels": 0.0, "depth": 0.0, "fragments": 0.0, "other": 0.0}
    sizes = {}
    for size, calls in after.items():
        calls -= before.get(size, 0)
        if not calls:
            continue
        sizes[size] = calls / frames
        kind = next((k for k, payload in payloads.items() if 0 <= size - payload <= 4096), None)
        # Of messages above it Fast DDS makes fragments that fit a UDP datagram, whatever the transport.
        kind = kind or ("fragments" if 60_000 <= size < 65_536 else "other")
        result[kind] += size * calls / frames
    whole = {k: result[k] / payloads[k] for k in payloads}
    return {
        "whole_images": whole,
        "whole_images_sum": sum(whole.values()),
        "bytes": result,
        "fragments_of_payload": result["fragments"] / sum(payloads.values()),
        "calls_by_size": dict(sorted(sizes.items())),
    }


class Peers:
    """The camera and listener processes, for one case."""

    def __init__(self, a, names, images):
        context = multiprocessing.get_context("spawn")
        environment = {"ROS_DOMAIN_ID": str(a.domain), "FASTRTPS_DEFAULT_PROFILES_FILE": str(a.profile)}
        self.names = names
        self.processes, self.pipes = [], []
        for target, extra in ((peers.cameras, images), (peers.listener, a.listen)):
            ours, theirs = context.Pipe()
            process = context.Process(target=target, args=(theirs, environment, names, extra), daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self.pipes.append(ours)
        self.cameras, self.listener = self.pipes

    def ask(self, pipe, command):
        pipe.send(command)
        return pipe.recv()

    def connect(self, node):
        """Waits until everybody knows everybody."""
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            node.check()
            heard = self.ask(self.cameras, "subscribers")
            seen = self.ask(self.listener, "publishers")
            if (heard, seen) == (len(self.names), 3 * len(self.names)):
                time.sleep(1.0)
                return
            if time.monotonic() > deadline:
                sys.exit(f"{node.name}: of {len(self.names)} cameras {heard} are subscribed to, of "
                         f"{3 * len(self.names)} outputs {seen} are published, after {START_LIMIT_S:.0f} s\n{node.log()}")
            time.sleep(0.1)

    def play(self, node, rate_hz, triggers):
        """Publishes on all cameras, and waits until all is answered or nothing more comes."""
        self.ask(self.listener, "take")
        last = self.ask(self.listener, "count")
        expected = last + triggers * len(self.names)
        before = Cpu(node.pid)
        took_s, _ = self.ask(self.cameras, (rate_hz, triggers))
        since = time.monotonic()
        while (count := self.ask(self.listener, "count")) < expected:
            if count != last:
                last, since = count, time.monotonic()
            if time.monotonic() - since > QUIET_S:
                break
            time.sleep(0.05)
        cpu = Cpu(node.pid).since(before)
        node.check()
        time.sleep(0.1)
        return took_s, cpu, self.ask(self.listener, "take")

    def close(self):
        for pipe in self.pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        for process in self.processes:
            process.join(10)
            if process.is_alive():
                process.kill()


class Node:
    """One of the two nodes, running."""

    def __init__(self, a, name, names, folder, extra=None):
        self.name = name
        parameters = {"model_path": str(a.model), "num_threads": a.threads}
        if names != [""]:
            parameters["cameras"] = "[" + ",".join(names) + "]"
        environment = {**os.environ, "ROS_DOMAIN_ID": str(a.domain), "FASTRTPS_DEFAULT_PROFILES_FILE": str(a.profile)}
        if name == "node":
            command = [str(a.node)]
            parameters["device"] = "cpu"
            further = a.node_arg
        else:
            command = [a.python, str(HERE / "python_node.py")]
            parameters["argmax"] = a.argmax
            further = []
            if a.torch_path:
                environment["PYTHONPATH"] = os.pathsep.join([a.torch_path, environment.get("PYTHONPATH", "")])
        environment.update(pair.split("=", 1) for pair in a.env)
        environment.update(extra or {})
        command.append("--ros-args")
        for pair in [f"{k}:={v}" for k, v in parameters.items()] + further:
            command += ["-p", pair]
        self.log_path = pathlib.Path(folder) / f"{name}.log"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)
        if a.realtime:  # at once: threads inherit it
            os.sched_setscheduler(self.process.pid, os.SCHED_RR, os.sched_param(1))
        self.pid = self.process.pid

    def log(self):
        return self.log_path.read_text(errors="replace")[-3000:]

    def check(self):
        if self.process.poll() is not None:
            sys.exit(f"the {self.name} ended with {self.process.returncode}:\n{self.log()}")

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def percentile(values, p):
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(p / 100 * len(ordered)) - 1)]


def summary(a, name, took_s, cpu, got, published):
    """Figures of one phase."""
    whole = [t for t in got["images"].values() if len(t) == 2]
    timing = got["timing"]
    if not whole or not timing:
        sys.exit(f"{name}: no answer at all to {published} frames")
    answered = len(timing)
    result = {
        "published": published,
        "answered": answered,
        "delivered": len(whole),
        "delivered_hz": len(whole) / took_s,
        "cpu_ms": cpu["total_ns"] / answered / 1e6,
        "cpu_by_role_ms": {k: v / answered / 1e6 for k, v in sorted(cpu["by_role_ns"].items())},
        "minor_faults": cpu["minor_faults"] / answered,
        "system_share": cpu["system_share"],
        "network_wall_ms": sum(t["infer_ns"] / max(1, t["batch_size"]) for t in timing) / answered / 1e6,
        "kept_waiting": cpu["kept_waiting"],
    }
    # How long the first image of a frame was in the node: the middleware's source stamp of its last output.
    ages = [max(published_ns for published_ns, _ in t.values()) / 1e6 for t in whole]
    heard = [max(received_ns for _, received_ns in t.values()) / 1e6 for t in whole]
    result["stamp_to_publication_ms"] = {f"p{p}": percentile(ages, p) for p in PERCENTILES}
    result["stamp_to_listener_ms"] = {f"p{p}": percentile(heard, p) for p in PERCENTILES}
    # The network ran on one thread. Its CPU time is its wall time, less the share of the time for which the scheduler
    # kept that thread waiting. The Python node measures it itself, by the thread's CPU clock: a check of the method.
    estimate = result["network_wall_ms"] * (1 - cpu["kept_waiting"])
    counter = got["network_cpu_ns"]
    if len(counter) > 1:
        result["network_cpu_estimate_ms"] = estimate
        estimate = (counter[-1] - counter[0]) / (len(counter) - 1) / 1e6
    result["network_cpu_ms"] = estimate
    result["own_cpu_ms"] = result["cpu_ms"] - estimate if a.threads == 1 else None
    if name == "node":
        stages = [k for k in timing[0] if k.endswith("_ns") and k != "age_ns"]
        result["stages_ms"] = {k[:-3]: statistics.mean(t[k] for t in timing) / 1e6 for k in stages}
        result["age_ms"] = {f"p{p}": percentile([t["age_ns"] / 1e6 for t in timing], p) for p in PERCENTILES}
        result["dropped"] = timing[-1]["dropped"]
    return result


@contextlib.contextmanager
def recorded(a, node, label):
    """A `perf record` of the node, where one is wanted."""
    if not a.perf:
        yield
        return
    a.perf.mkdir(parents=True, exist_ok=True)
    data = a.perf / f"{label}.data"
    command = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "1999", "-p", str(node.pid), "-o", str(data)]
    perf = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        perf.send_signal(signal.SIGINT)
        perf.wait()


def measure(a, name, cameras, size, images, folder):
    """Starts a node and takes it through both loads."""
    names = [""] if cameras == 1 else list(CAMERA_NAMES[:cameras])
    with contextlib.ExitStack() as stack:
        node = Node(a, name, names, folder)
        stack.callback(node.close)
        both = Peers(a, names, images)
        stack.callback(both.close)
        both.connect(node)
        both.play(node, a.light_hz / cameras, WARM_UP)
        triggers = math.ceil(a.light_frames / cameras)
        with recorded(a, node, f"{name}-{cameras}x{size[0]}x{size[1]}"):
            result = {"light": summary(a, name, *both.play(node, a.light_hz / cameras, triggers), triggers * cameras)}
        before = Cpu(node.pid)
        time.sleep(IDLE_S)
        result["idle_ms_per_s"] = Cpu(node.pid).since(before)["total_ns"] / 1e6 / IDLE_S
        if a.overload_s:
            triggers = max(1, round(a.overload_s * a.overload_hz / cameras))
            played = both.play(node, a.overload_hz / cameras, triggers)
            result["overload"] = summary(a, name, *played, triggers * cameras)
            result["overload"]["published_hz"] = triggers * cameras / played[0]
        return result


def count_copies(a, name, cameras, size, images, folder, table):
    """The same light load with copies.c in the node: not timed."""
    names = [""] if cameras == 1 else list(CAMERA_NAMES[:cameras])
    with contextlib.ExitStack() as stack:
        node = Node(a, name, names, folder, table.environment())
        stack.callback(node.close)
        both = Peers(a, names, images)
        stack.callback(both.close)
        both.connect(node)
        both.play(node, a.light_hz / cameras, WARM_UP)
        before = table.read()
        _, _, got = both.play(node, a.light_hz / cameras, math.ceil(10 / cameras))
        return copies(before, table.read(), max(1, len(got["timing"])), *size)


def median(values):
    """Of numbers, or of dictionaries of them, entry by entry."""
    if isinstance(values[0], dict):
        keys = dict.fromkeys(itertools.chain.from_iterable(values))
        return {k: median([v[k] for v in values if k in v]) for k in keys}
    return None if values[0] is None else statistics.median(values)


def rows(both, python):
    """The lines of the table: (what, unit, node, python)."""
    lines = []

    def add(what, get, digits=1):
        values = []
        for result in (both, python):
            try:
                values.append(get(result))
            except (KeyError, TypeError):
                values.append(None)
        lines.append((what, *values, digits))

    add("CPU per frame outside the network, ms", lambda r: r["light"]["own_cpu_ms"])
    add("  CPU per frame, all, ms", lambda r: r["light"]["cpu_ms"])
    add("  network's CPU per frame, ms", lambda r: r["light"]["network_cpu_ms"])
    add("CPU without any frames, ms a second", lambda r: r["idle_ms_per_s"])
    add("minor page faults per frame", lambda r: r["light"]["minor_faults"], 0)
    add("copies of whole images per frame", lambda r: r["copies"]["whole_images_sum"])
    for k in ("input", "labels", "depth"):
        add(f"  of the {k}", lambda r, k=k: r["copies"]["whole_images"][k])
    add("  and in fragments, of all payload", lambda r: r["copies"]["fragments_of_payload"])
    add("delivered, light load, Hz", lambda r: r["light"]["delivered_hz"], 2)
    for p in PERCENTILES:
        what = "max" if p == 100 else f"p{p}"
        add(f"  stamp to publication {what}, ms", lambda r, p=p: r["light"]["stamp_to_publication_ms"][f"p{p}"])
    add("published under overload, Hz", lambda r: r["overload"]["published_hz"], 2)
    add("delivered under overload, Hz", lambda r: r["overload"]["delivered_hz"], 2)
    add("  CPU outside the network, overload, ms", lambda r: r["overload"]["own_cpu_ms"])
    for p in PERCENTILES:
        what = "max" if p == 100 else f"p{p}"
        add(f"  stamp to publication {what}, ms", lambda r, p=p: r["overload"]["stamp_to_publication_ms"][f"p{p}"])
    return lines


def show(case, results):
    """Prints one case."""
    print(f"\n{case['cameras']} camera{'s' * (case['cameras'] > 1)} of {case['width']}x{case['height']}")
    print(f"{'':44}{'semantic_depth':>15}{'Python node':>14}{'Python / ours':>15}")
    for what, ours, theirs, digits in rows(results.get("node"), results.get("python")):
        if ours is None and theirs is None:
            continue
        text = lambda v: "-" if v is None else f"{v:.{digits}f}"  # noqa: E731
        ratio = f"{theirs / ours:.1f}" if ours and theirs else "-"
        print(f"{what:44}{text(ours):>15}{text(theirs):>14}{ratio:>15}")
    for name, result in results.items():
        if result["light"]["kept_waiting"] > 0.1:
            print(f"{name}: waited for a core {100 * result['light']['kept_waiting']:.0f} % of the time: other programs "
                  "disturb these figures")
        roles = result["light"]["cpu_by_role_ms"]
        print(f"{name}: CPU per frame by thread, ms: " + ", ".join(f"{k} {v:.1f}" for k, v in roles.items()))
        if stages := result["light"].get("stages_ms"):
            print("node: wall time by stage, ms: " + ", ".join(f"{k} {v:.2f}" for k, v in stages.items() if v))


def about(a):
    """What the figures were measured on and with."""
    model = next((line.partition(":")[2].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.processor())
    environment = dict(os.environ)
    if a.torch_path:
        environment["PYTHONPATH"] = os.pathsep.join([a.torch_path, environment.get("PYTHONPATH", "")])
    versions = {}
    if a.only != "node":
        code = "import json, numpy, torch; print(json.dumps({'torch': torch.__version__, 'numpy': numpy.__version__}))"
        run = subprocess.run([a.python, "-c", code], env=environment, capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"{a.python} cannot import torch and numpy: give --python or --torch-path\n{run.stderr[-500:]}")
        versions = json.loads(run.stdout)
    manifest = (a.model / "model.yaml").read_text().splitlines()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python3", "benches/node_cost/run.py", *sys.argv[1:]]),
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "ros_distro": os.environ.get("ROS_DISTRO"),
        "rmw": os.environ.get("RMW_IMPLEMENTATION", "the distribution's default"),
        "libtorch_of_the_node": next((line.split(":")[1].strip(" '") for line in manifest if "libtorch:" in line), None),
        **versions,
    }


def main():
    a = arguments()
    report = {"about": about(a), "cases": []}
    for key, value in report["about"].items():
        print(f"{key}: {value}")
    nodes = [a.only] if a.only else ["node", "python"]
    with tempfile.TemporaryDirectory(prefix="node_cost") as folder:
        table = None if a.no_copies else CopyTable(folder)
        drive = pictures(a.tool, os.path.join(folder, "drive"))
        for size, cameras in itertools.product(a.sizes, a.cameras):
            images = [fit(picture, *size) for picture in drive]
            rounds = {name: [] for name in nodes}
            for number in range(a.rounds):
                # The second node of a round is the first of the next: drift of the machine hits both alike.
                for name in nodes if number % 2 == 0 else reversed(nodes):
                    print(f"{cameras} x {size[0]}x{size[1]}, round {number + 1}, {name}", file=sys.stderr)
                    rounds[name].append(measure(a, name, cameras, size, images, folder))
            results = {name: median(values) for name, values in rounds.items()}
            if table:
                for name in nodes:
                    results[name]["copies"] = count_copies(a, name, cameras, size, images, folder, table)
            case = {"cameras": cameras, "width": size[0], "height": size[1]}
            show(case, results)
            report["cases"].append({**case, "median": results, "rounds": rounds})
            if a.json:  # after every case: an interrupted run leaves what it has
                a.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
