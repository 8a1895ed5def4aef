#!/usr/bin/env python3
"""The network by what a user would pick instead, beside `semantic_depth bench`: eager PyTorch as in the article,
torch.compile, ONNX Runtime, OpenVINO. README.md says how to install them and what the figures mean.

Each has a process of its own with the same weights, size and number of threads, and they take turns: what disturbs the
machine meets all of them. Printed is a Markdown table of medians.
"""

import argparse
import concurrent.futures
import datetime
import json
import os
import pathlib
import platform
import select
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
# name: options of peer.py
CPU_PEERS = {
    "PyTorch eager fp32 NCHW (the article's way)": "--engine eager --layout nchw",
    "PyTorch eager fp32 channels last": "--engine eager",
    "PyTorch eager bf16 channels last": "--engine eager --precision bf16",
    "torch.compile fp32, frozen": "--engine compile",
    "torch.compile bf16, frozen": "--engine compile --precision bf16",
    "ONNX Runtime fp32": "--engine onnxruntime",
    "OpenVINO fp32": "--engine openvino",
    "OpenVINO bf16": "--engine openvino --precision bf16",
}
CUDA_PEERS = {
    "PyTorch eager fp32 NCHW (the article's way)": "--engine eager --layout nchw",
    "PyTorch eager fp32 NCHW without TF32": "--engine eager --layout nchw --strict",
    "PyTorch eager fp16 channels last": "--engine eager --precision fp16",
    "PyTorch fp16 channels last, one CUDA graph": "--engine graph --precision fp16",
    "ONNX Runtime fp32": "--engine onnxruntime",
    "torch.compile fp16, CUDA graphs": "--engine compile --precision fp16 --compile-mode reduce-overhead",
    "torch.compile fp16, max-autotune with CUDA graphs": "--engine compile --precision fp16 --compile-mode max-autotune",
}
# The peers that are fast enough to be worth comparing with answers left at the heads.
HEADS_TOO = ("compile", "graph", "onnxruntime", "openvino")
OURS = {"cpu": ["ours, native fp32@heads=--backend native --precision fp32",
                "ours, native bf16@heads=--backend native --precision bf16",
                "ours, torchscript fp32@heads=--backend torchscript --precision fp32",
                "ours, torchscript bf16@heads=--backend torchscript --precision bf16",
                "ours, torchscript fp32=--backend torchscript --precision fp32"],
        "cuda": ["ours, native fp16@heads=--backend native --precision fp16",
                 "ours, torchscript fp16@heads=--backend torchscript --precision fp16",
                 "ours, torchscript fp32@heads=--backend torchscript --precision fp32",
                 "ours, torchscript fp16=--backend torchscript --precision fp16"]}
WARM_UP = 10
PAUSE_S = 0.3
PERCENTILES = ("p50", "p95", "p99", "max")


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--weights", type=pathlib.Path, required=True, help="weights.safetensors of a model")
    p.add_argument("--size", default="1024x400", help="WIDTHxHEIGHT of the network (default 1024x400, the article's)")
    p.add_argument("--tool", default=os.environ.get("SEMANTIC_DEPTH_TOOL", "semantic_depth"), help="our program")
    p.add_argument("--ours", action="append", metavar="NAME[@heads]=OPTIONS", help="run `semantic_depth bench` so, instead "
                   "of in its usual ways (repeatable); with --model DIR among the options that model, else one that is "
                   "exported from the weights: @heads in the deployment form, whose answers are left at the heads' size, "
                   "else in the article's form (--full-size)")
    p.add_argument("--export", default="", metavar="OPTIONS", help="further options of `semantic_depth export`")
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each (default: one a core)")
    p.add_argument("--rounds", type=int, default=5, help="each peer's turns (default 5)")
    p.add_argument("--repetitions", type=int, default=20, help="measured runs of a turn (default 20)")
    p.add_argument("--frame-size", metavar="WIDTHxHEIGHT", help="also whole frames of this size, from rgb8 in host memory to "
                   "labels and metres in host memory, for ours and PyTorch")
    p.add_argument("--frames", type=int, default=20, help="with --frame-size: measured frames of a turn (default 20)")
    p.add_argument("--load-limit", type=float, default=600, metavar="SECONDS", help="who is not ready after this time is left "
                   "out (default 600)")
    p.add_argument("--only", action="append", default=[], help="only peers whose name contains this (repeatable)")
    p.add_argument("--python", default=sys.executable, help="interpreter of the peers")
    p.add_argument("--torch-path", help="folder with torch, where the interpreter does not have it (pip install --target)")
    p.add_argument("--plain-malloc", action="store_true", help="do not give the peers our allocator's thresholds")
    p.add_argument("--json", type=pathlib.Path, help="write everything that was measured to this file")
    a = p.parse_args()
    if not a.weights.is_file():
        p.error(f"--weights: there is no file {a.weights}")
    if min(a.threads, a.rounds, a.repetitions, a.frames) < 1:
        p.error("--threads, --rounds, --repetitions and --frames must be above 0")
    a.ours = a.ours or OURS[a.device]
    for text in a.ours:
        if "=" not in text:
            p.error(f"--ours: {text!r} is not NAME=OPTIONS")
    return a


def environment(a, peer):
    result = {**os.environ, "OMP_NUM_THREADS": str(a.threads)}
    if peer and a.torch_path:
        result["PYTHONPATH"] = os.pathsep.join([a.torch_path, result.get("PYTHONPATH", "")])
    if peer and not a.plain_malloc:
        # Our program sets these itself. Without them glibc maps and clears every large tensor anew.
        result.update({"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_ARENA_MAX": "1"})
    return result


class Left(Exception):
    """Why one of them is left out."""


def call(command, env):
    """Runs a command to its end."""
    done = subprocess.run([str(word) for word in command], env=env, capture_output=True, text=True)
    if done.returncode:
        raise Left(f"{shlex.join(str(w) for w in command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


class Peer:
    """A process of peer.py that waits for its turns."""

    def __init__(self, a, name, form, options, shared):
        self.name, self.form, self.ours, self.limit = name, form, False, a.load_limit
        # Such a compiler tries kernels out: nothing else may run on the device meanwhile.
        self.alone = a.device == "cuda" and "max-autotune" in options
        command = [a.python, HERE / "peer.py", *shlex.split(options), "--form", form, "--device", a.device,
                   "--threads", a.threads, "--model", shared["model"], "--answer", shared["answer"]]
        if "onnxruntime" in options or "openvino" in options:
            command += ["--onnx", shared["onnx"][form]]
        elif a.frame_size:
            command += ["--frame", a.frame_size]
        self.command = [str(word) for word in command]
        self.log_path = shared["folder"] / f"{name} {form}.log".replace("/", " ")
        self.env = {**environment(a, True), "TORCHINDUCTOR_CACHE_DIR": str(shared["folder"] / "inductor")}
        self.process = None

    def start(self):
        self.began = time.monotonic()
        self.log = open(self.log_path, "w+", encoding="utf-8")
        # A group of its own: compilers start further processes.
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, stderr=self.log,
                                        env=self.env, start_new_session=True)

    def ready(self):
        """Waits until it has answered."""
        left = self.began + self.limit - time.monotonic()
        if not select.select([self.process.stdout], [], [], max(left, 0))[0]:
            raise Left(f"it was not ready after {self.limit:.0f} s")
        hello = self.hear()
        self.versions, self.check, self.frame_check = hello["versions"], hello["check"], hello["frame_check"]
        return time.monotonic() - self.began

    def hear(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.log.seek(0)
            raise Left(f"it ended with {self.process.returncode}:\n{self.log.read()[-2000:]}")
        return json.loads(line)

    def ask(self, words):
        try:
            self.process.stdin.write(words + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        return self.hear()

    def turn(self, a):
        """One turn's figures."""
        found = figures(self.ask(f"{WARM_UP} {a.repetitions} network"))
        if self.frame_check:
            found["frame"] = figures(self.ask(f"{WARM_UP} {a.frames} frame"))
        return found

    def close(self):
        if self.process:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()
            self.log.close()


def spread(times):
    """By nearest rank, as ours has them."""
    ordered = sorted(times)
    return {p: ordered[-(-len(ordered) * rank // 100) - 1] for p, rank in zip(PERCENTILES, (50, 95, 99, 100))}


def figures(times):
    """Medians, how the wall clock's times spread, and of the device's events the mean and sample deviation."""
    found = {clock: statistics.median(t) for clock, t in times.items()}
    found["wall_spread_ms"] = spread(times["wall_ms"])
    if len(times.get("device_ms", [])) > 1:
        found["device_mean_ms"] = statistics.mean(times["device_ms"])
        found["device_deviation_ms"] = statistics.stdev(times["device_ms"])
    return found


def figures_of_ours(timing):
    """As `figures`, of a timing in a report of `semantic_depth bench`."""
    return {clock: timing[clock]["p50"] for clock in ("wall_ms", "cpu_ms")} | {
        "wall_spread_ms": {p: timing["wall_ms"][p] for p in PERCENTILES}}


class Ours:
    """`semantic_depth bench`, started anew for each turn."""

    def __init__(self, a, text, shared, device=None):
        name, _, options = text.partition("=")
        self.name, _, form = name.partition("@")
        self.form, self.ours, self.alone = form or "full", True, False
        options = shlex.split(options)
        model = [] if "--model" in options else ["--model", shared["model" if form == "heads" else "full"]]
        self.json = shared["folder"] / f"{self.name} {self.form}.json".replace("/", " ")
        self.command = [a.tool, "bench", "--device", device or a.device, "--threads", a.threads, *model, *options]
        self.env = environment(a, False)
        self.options, self.shared = options, shared
        self.versions, self.check, self.frame_check, self.device = {}, None, None, device or a.device

    def answer(self):
        """What it answers, as a file."""
        path = self.json.with_suffix(".safetensors")
        call([*self.command, "--parts", "network", "--warm-up", 0, "--repetitions", 1, "--save-answer", path], self.env)
        return path

    def start(self):
        self.began = time.monotonic()
        self.started = self.shared["pool"].submit(self.answer)

    def ready(self):
        from safetensors.numpy import load_file

        import peer

        found, reference = load_file(self.started.result()), load_file(self.shared["answer"])
        half = any(half in self.options for half in peer.HALF)
        # See peer.py: TF32.
        precision = "bf16" if half or self.device == "cuda" else "fp32"
        try:
            self.check = peer.compare(found["labels"], found["depth_m"], reference, precision)
        except SystemExit as why:
            raise Left(str(why)) from why
        return time.monotonic() - self.began

    def turn(self, a):
        """One turn's figures."""
        parts, frames = ("frames,network", ["--frame-size", a.frame_size, "--frames", a.frames]) if a.frame_size else ("network", [])
        call([*self.command, "--json", self.json, "--parts", parts, "--warm-up", WARM_UP, "--repetitions", a.repetitions, *frames],
             self.env)
        report = json.loads(self.json.read_text())
        about, network = report["about"], report["network"]
        self.versions = {k: about[k] for k in ("package_version", "libtorch", "backend", "precision")}
        timing = network["device"] or network["host"]
        found = figures_of_ours(timing)
        if timing.get("device_ms"):
            events = timing["device_ms"]
            found |= {"device_ms": events["p50"], "device_mean_ms": events["mean"], "device_deviation_ms": events["deviation"]}
        found["host_ms"] = network["host"]["wall_ms"]["p50"]
        if a.frame_size:
            found["frame"] = figures_of_ours(report["frames"]["whole"])
        return found

    def close(self):
        pass


def has_onnxruntime_for_cuda(a):
    """Whether the installed ONNX Runtime is one for NVIDIA's GPUs."""
    code = "import onnxruntime; print(*onnxruntime.get_available_providers())"
    done = subprocess.run([a.python, "-c", code], env=environment(a, True), capture_output=True, text=True)
    return "CUDAExecutionProvider" in done.stdout.split()


def everybody(a, shared):
    """All of them, not started: ours, and the others."""
    ours = [Ours(a, text, shared) for text in a.ours]
    chosen = {n: o for n, o in (CUDA_PEERS if a.device == "cuda" else CPU_PEERS).items()
              if not a.only or any(part in n for part in a.only)}
    if a.device == "cuda" and any("onnxruntime" in o for o in chosen.values()) and not has_onnxruntime_for_cuda(a):
        say("skipped: ONNX Runtime, which has no CUDAExecutionProvider here (pip install onnxruntime-gpu in its place)")
        chosen = {n: o for n, o in chosen.items() if "onnxruntime" not in o}
    others = [(n, "full", o) for n, o in chosen.items()]
    others += [(n, "heads", o) for n, o in chosen.items() if any(e in o for e in HEADS_TOO)]
    for form in {f for _, f, o in others if "onnxruntime" in o or "openvino" in o}:
        command = [a.python, HERE / "peer.py", "--engine", "export-onnx", "--form", form, "--model", shared["model"]]
        shared["onnx"][form] = shared["folder"] / f"{form}.onnx"
        call([*command, "--onnx", shared["onnx"][form]], environment(a, True))
    return ours + [Peer(a, name, form, options, shared) for name, form, options in others]


def say(text):
    print(text, file=sys.stderr, flush=True)


class Run:
    """Who takes part, and what was found."""

    def __init__(self, a):
        self.a, self.turns, self.left = a, {}, {}

    def leave(self, one, why):
        """Goes on without one of them."""
        self.turns.pop(one, None)
        self.left[f"{one.name}, answers {one.form}"] = str(why)
        say(f"LEFT OUT: {one.name}, answers {one.form}: {why}")
        one.close()

    def load(self, group):
        """Starts them together."""
        for one in group:
            one.start()
        for one in group:
            try:
                seconds = one.ready()
                self.turns[one] = []
                say(f"{seconds:6.1f} s to load {one.name}, answers {one.form}")
            except Left as why:
                self.leave(one, why)

    def round(self, group, keep=True):
        """A turn of each; what is not kept is printed only."""
        for one in group:
            time.sleep(PAUSE_S)
            try:
                found = one.turn(self.a)
            except Left as why:
                self.leave(one, why)
                continue
            say(f"{'' if keep else 'first look: '}{one.name}, answers {one.form}: " + json.dumps(found))
            if keep:
                self.turns[one].append(found)

    def all(self, shared):
        a = self.a
        everyone = everybody(a, shared)
        quick, slow = [one for one in everyone if not one.alone], [one for one in everyone if one.alone]
        # On a processor they would wait for each other, and memory is short.
        groups = [quick] if a.device == "cuda" else [[one] for one in quick]
        for group in groups:
            self.load(group)
        if slow:
            self.round([one for one in self.turns if not one.ours], keep=False)
        for one in slow:
            self.load([one])
            self.round([one] if one in self.turns else [], keep=False)
        for number in range(a.rounds):
            say(f"round {number + 1}")
            # Backwards every second time: a drift within a round meets all alike.
            order = list(self.turns)
            self.round(order if number % 2 == 0 else order[::-1])
            yield number

    def results(self):
        fewest = min(map(len, self.turns.values()), default=0)
        return [{"name": one.name, "form": one.form, "ours": one.ours, "versions": one.versions, "check": one.check,
                 "frame_check": one.frame_check, "turns": turns[:fewest]} for one, turns in self.turns.items() if fewest]

    def close(self):
        for one in self.turns:
            one.close()


def gpus():
    """Names and driver of NVIDIA's GPUs here, as the driver's own program tells them."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as why:
        return f"unknown: {why}"
    lines = [line.split(", ") for line in done.stdout.splitlines() if line]
    return "; ".join(f"{', '.join(name)}, driver {driver}" for *name, driver in lines)


def about(a):
    cpu = next((line.partition(":")[2].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.processor())
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python3", "benches/peers/run.py", *sys.argv[1:]]),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "threads": a.threads,
        "device": a.device,
        **({"gpu": gpus()} if a.device == "cuda" else {}),
        "network": a.size,
        "rounds": a.rounds,
        "repetitions": a.repetitions,
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def middle(r, clock="wall_ms"):
    """Median over the turns."""
    return statistics.median(t[clock] for t in r["turns"])


SIZES = {"full": "full size", "heads": "1/4"}


def ratio(results, r, times):
    """To the quickest of ours with answers of the same size (else the quickest of ours), round by round, and of these the
    median; and which that is."""
    ours = [o for o in results if o["ours"]]
    if not ours:
        return None, None
    base = min([o for o in ours if o["form"] == r["form"]] or ours, key=lambda o: statistics.median(times(o)))
    return statistics.median(t / b for t, b in zip(times(r), times(base))), f"{base['name']}, {base['form']}"


def cell(value, digits=1):
    return "-" if value is None else f"{value:.{digits}f}"


def table(results, digits):
    """Markdown."""
    events = any("device_ms" in t for r in results for t in r["turns"])
    more = " device events, median | mean +/- deviation |" if events else ""
    lines = [f"| what | answers | median, ms | rounds, ms | processor time, ms | / ours |{more} labels equal | depth, median difference |",
             f"|---|---|---|---|---|---|{'---|---|' if events else ''}---|---|"]
    times = lambda r: [t["wall_ms"] for t in r["turns"]]  # noqa: E731
    for r in sorted(results, key=lambda r: (r["form"], middle(r))):
        turns = times(r)
        r["median_ms"] = middle(r)
        r["cpu_median_ms"] = middle(r, "cpu_ms")
        r["ratio"], r["ratio_to"] = ratio(results, r, times)
        name = f"**{r['name']}**" if r["ours"] else r["name"]
        device = ""
        if events and "device_mean_ms" in r["turns"][0]:
            # The mean of means; the turns' own deviations, their median.
            mean = statistics.mean(t["device_mean_ms"] for t in r["turns"])
            device = f" {middle(r, 'device_ms'):.{digits}f} | {mean:.{digits}f} +/- {middle(r, 'device_deviation_ms'):.{digits}f} |"
        elif events:
            device = " - | - |"
        lines.append(f"| {name} | {SIZES[r['form']]} | {r['median_ms']:.{digits}f} | {min(turns):.{digits}f} to {max(turns):.{digits}f} "
                     f"| {r['cpu_median_ms']:.{digits}f} | {cell(r['ratio'], 2)} |{device} {100 * r['check']['labels_equal']:.2f} % "
                     f"| {r['check']['depth_median_difference']:.1e} |")
    return "\n".join(lines)


def frames_table(results, digits):
    """Whole frames: Markdown. Of the rounds' percentiles the median, of their slowest frames the slowest. The ratio is of
    medians, to the quickest of ours."""
    rows = [r for r in results if "frame" in r["turns"][0]]
    lines = ["| what | network answers | frame, median, ms | p95 | p99 | max | medians of rounds, ms | processor time, ms | / ours |",
             "|---|---|---|---|---|---|---|---|---|"]
    times = lambda r: [t["frame"]["wall_ms"] for t in r["turns"]]  # noqa: E731
    base = min((r for r in rows if r["ours"]), key=lambda r: statistics.median(times(r)), default=None)
    for r in sorted(rows, key=lambda r: statistics.median(times(r))):
        r["frame_median_ms"] = statistics.median(times(r))
        r["frame_ratio"] = statistics.median(t / b for t, b in zip(times(r), times(base))) if base else None
        cpu = statistics.median(t["frame"]["cpu_ms"] for t in r["turns"])
        spreads = [t["frame"]["wall_spread_ms"] for t in r["turns"]]
        r["frame_spread_ms"] = {p: (max if p == "max" else statistics.median)(s[p] for s in spreads) for p in PERCENTILES}
        slow = " | ".join(f"{r['frame_spread_ms'][p]:.{digits}f}" for p in PERCENTILES[1:])
        name = f"**{r['name']}**" if r["ours"] else r["name"]
        lines.append(f"| {name} | {SIZES[r['form']]} | {r['frame_median_ms']:.{digits}f} | {slow} | {min(times(r)):.{digits}f} to "
                     f"{max(times(r)):.{digits}f} | {cpu:.{digits}f} | {cell(r['frame_ratio'], 2)} |")
    return "\n".join(lines)


def show(a, report, run):
    """The tables, and the file."""
    digits = 3 if a.device == "cuda" else 1
    results = report["results"] = run.results()
    report["left_out"] = run.left
    text = table(results, digits)
    if a.frame_size:
        text += f"\n\nWhole frames, {a.frame_size} rgb8 in host memory to labels and metres of its size in host memory:\n\n"
        text += frames_table(results, digits)
    for key, value in report["about"].items():
        print(f"{key}: {value}")
    versions = {k: v for r in results for k, v in r["versions"].items() if k not in ("backend", "precision", "precision_used")}
    print("versions:", ", ".join(f"{k} {v}" for k, v in versions.items()))
    for who, why in run.left.items():
        print(f"left out: {who}: {why}")
    print(f"\n{text}", flush=True)
    if a.json:
        a.json.write_text(json.dumps(report, indent=1) + "\n")


def ended(*_):
    """So that everything that was started ends with this."""
    raise SystemExit("ended by a signal")


def main():
    a = arguments()
    report = {"about": about(a), "results": []}
    run = Run(a)
    signal.signal(signal.SIGTERM, ended)
    with tempfile.TemporaryDirectory(prefix="peers", ignore_cleanup_errors=True) as folder, \
            concurrent.futures.ThreadPoolExecutor() as pool:
        folder = pathlib.Path(folder)
        shared = {"folder": folder, "model": folder / "model", "full": folder / "full", "onnx": {}, "pool": pool}
        export = [a.tool, "export", "--weights", a.weights, "--size", a.size, *shlex.split(a.export)]
        try:
            call([*export, "--out", shared["model"]], environment(a, False))
            call([*export, "--full-size", "--out", shared["full"]], environment(a, False))
            # What all answers are compared with is of the article's form in single precision, on the processor.
            shared["answer"] = Ours(a, "reference=--backend torchscript --precision fp32", shared, "cpu").answer()
            for number in run.all(shared):
                if number == 0 and a.rounds > 1:
                    show(a, report, run)
        except Left as why:
            sys.exit(str(why))
        finally:
            run.close()
    show(a, report, run)
    sys.exit(1 if run.left else 0)


if __name__ == "__main__":
    main()
