#!/usr/bin/env python3
"""The network by what a user would pick instead, beside `semantic_depth bench`: eager PyTorch as in the article,
torch.compile, ONNX Runtime, OpenVINO. README.md says how to install them and what the figures mean.

Each has a process of its own with the same weights, size and number of threads, and they take turns: what disturbs the
machine meets all of them. Printed is a Markdown table of medians.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shlex
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
    "PyTorch eager fp16 channels last": "--engine eager --precision fp16",
    "torch.compile fp16, max-autotune with CUDA graphs": "--engine compile --precision fp16",
}
# The peers that are fast enough to be worth comparing with answers left at the heads.
HEADS_TOO = ("compile", "onnxruntime", "openvino")
OURS = {"cpu": ["ours, native fp32@heads=--backend native --precision fp32",
                "ours, native bf16@heads=--backend native --precision bf16",
                "ours, torchscript fp32@heads=--backend torchscript --precision fp32",
                "ours, torchscript bf16@heads=--backend torchscript --precision bf16",
                "ours, torchscript fp32=--backend torchscript --precision fp32"],
        "cuda": ["ours, torchscript fp32@heads=--backend torchscript --precision fp32",
                 "ours, torchscript fp16@heads=--backend torchscript --precision fp16",
                 "ours, torchscript fp16=--backend torchscript --precision fp16"]}
WARM_UP = 10
PAUSE_S = 0.3


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
    p.add_argument("--only", action="append", default=[], help="only peers whose name contains this (repeatable)")
    p.add_argument("--python", default=sys.executable, help="interpreter of the peers")
    p.add_argument("--torch-path", help="folder with torch, where the interpreter does not have it (pip install --target)")
    p.add_argument("--plain-malloc", action="store_true", help="do not give the peers our allocator's thresholds")
    p.add_argument("--json", type=pathlib.Path, help="write everything that was measured to this file")
    a = p.parse_args()
    if not a.weights.is_file():
        p.error(f"--weights: there is no file {a.weights}")
    if min(a.threads, a.rounds, a.repetitions) < 1:
        p.error("--threads, --rounds and --repetitions must be above 0")
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


def call(command, env):
    """Runs a command to its end."""
    done = subprocess.run([str(word) for word in command], env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{shlex.join(str(w) for w in command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


class Peer:
    """A process of peer.py that waits for its turns."""

    def __init__(self, a, name, form, options, shared):
        self.name, self.form = name, form
        command = [a.python, HERE / "peer.py", *shlex.split(options), "--form", form, "--device", a.device,
                   "--threads", a.threads, "--model", shared["model"], "--answer", shared["answer"]]
        if "onnxruntime" in options or "openvino" in options:
            command += ["--onnx", shared["onnx"][form]]
        self.log = open(shared["folder"] / f"{name} {form}.log".replace("/", " "), "w+", encoding="utf-8")
        self.process = subprocess.Popen([str(w) for w in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        stderr=self.log, env={**environment(a, True), "TORCHINDUCTOR_CACHE_DIR": str(shared["folder"] / "inductor")})
        hello = self.hear()
        self.versions, self.check = hello["versions"], hello["check"]

    def hear(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.log.seek(0)
            sys.exit(f"{self.name} ({self.form}) ended with {self.process.returncode}:\n{self.log.read()[-2000:]}")
        return json.loads(line)

    def turn(self, warm_up, repetitions):
        """Medians of one turn, ms."""
        self.process.stdin.write(f"{warm_up} {repetitions}\n")
        self.process.stdin.flush()
        return {clock: statistics.median(times) for clock, times in self.hear().items()}

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.log.close()


class Ours:
    """`semantic_depth bench`, started anew for each turn."""

    def __init__(self, a, text, shared):
        name, _, options = text.partition("=")
        self.name, _, form = name.partition("@")
        self.form = form or "full"
        options = shlex.split(options)
        model = [] if "--model" in options else ["--model", shared["model" if form == "heads" else "full"]]
        self.json = shared["folder"] / "ours.json"
        self.command = [a.tool, "bench", "--parts", "network", "--device", a.device, "--threads", a.threads, *model,
                        "--json", self.json, *options]
        self.env = environment(a, False)
        self.folder, self.options = shared["folder"], options
        self.versions, self.check = {}, None

    def answer(self):
        """What it answers, as a file."""
        path = self.folder / f"{self.name}.safetensors".replace("/", " ")
        call([*self.command, "--warm-up", 0, "--repetitions", 1, "--save-answer", path], self.env)
        return path

    def turn(self, warm_up, repetitions):
        """Medians of one turn, ms."""
        call([*self.command, "--warm-up", warm_up, "--repetitions", repetitions], self.env)
        report = json.loads(self.json.read_text())
        about = report["about"]
        self.versions = {k: about[k] for k in ("package_version", "libtorch", "backend", "precision")}
        timing = report["network"]["device"] or report["network"]["host"]
        return {clock: timing[clock]["p50"] for clock in ("wall_ms", "cpu_ms")}

    def close(self):
        pass


def peers(a, shared):
    """All of them, ready: ours, and the others with an answer that was found to be ours."""
    from safetensors.numpy import load_file

    import peer

    ours = [Ours(a, text, shared) for text in a.ours]
    # The answer that the others are compared with is of the article's form in single precision.
    reference = Ours(a, "reference=--backend torchscript --precision fp32", shared).answer()
    shared["answer"] = reference
    for one in ours:
        found = load_file(one.answer())
        precision = "bf16" if any(half in one.options for half in peer.HALF) else "fp32"
        one.check = peer.compare(found["labels"], found["depth_m"], load_file(reference), precision)
    chosen = {n: o for n, o in (CUDA_PEERS if a.device == "cuda" else CPU_PEERS).items()
              if not a.only or any(part in n for part in a.only)}
    others = [(n, "full", o) for n, o in chosen.items()]
    others += [(n, "heads", o) for n, o in chosen.items() if any(e in o for e in HEADS_TOO)]
    for form in {f for _, f, o in others if "onnxruntime" in o or "openvino" in o}:
        command = [a.python, HERE / "peer.py", "--engine", "export-onnx", "--form", form, "--model", shared["model"]]
        shared["onnx"][form] = shared["folder"] / f"{form}.onnx"
        call([*command, "--onnx", shared["onnx"][form]], environment(a, True))
    ready = []
    for name, form, options in others:
        print(f"loading {name}, answers {form}", file=sys.stderr)
        ready.append(Peer(a, name, form, options, shared))
    return ours, ready


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
        "network": a.size,
        "rounds": a.rounds,
        "repetitions": a.repetitions,
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def table(results):
    """Markdown. The ratio is to the quickest of ours with answers of the same size (else the quickest of ours), round by
    round, and of these the median."""
    middle = lambda r: statistics.median(t["wall_ms"] for t in r["turns"])  # noqa: E731
    lines = ["| what | answers | median, ms | rounds, ms | processor time, ms | / ours | labels equal | depth, median difference |",
             "|---|---|---|---|---|---|---|---|"]
    ours = [r for r in results if r["ours"]]
    for r in sorted(results, key=lambda r: (r["form"], middle(r))):
        same = [o for o in ours if o["form"] == r["form"]] or ours
        base = min(same, key=middle)
        turns = [t["wall_ms"] for t in r["turns"]]
        r["median_ms"] = middle(r)
        r["cpu_median_ms"] = statistics.median(t["cpu_ms"] for t in r["turns"])
        r["ratio"] = statistics.median(t / b["wall_ms"] for t, b in zip(turns, base["turns"]))
        r["ratio_to"] = f"{base['name']}, {base['form']}"
        name = f"**{r['name']}**" if r["ours"] else r["name"]
        size = {"full": "full size", "heads": "1/4"}[r["form"]]
        lines.append(f"| {name} | {size} | {r['median_ms']:.1f} | {min(turns):.1f} to {max(turns):.1f} | {r['cpu_median_ms']:.1f} "
                     f"| {r['ratio']:.2f} | {100 * r['check']['labels_equal']:.2f} % | {r['check']['depth_median_difference']:.1e} |")
    return "\n".join(lines)


def main():
    a = arguments()
    report = {"about": about(a), "results": []}
    with tempfile.TemporaryDirectory(prefix="peers") as folder:
        folder = pathlib.Path(folder)
        shared = {"folder": folder, "model": folder / "model", "full": folder / "full", "onnx": {}}
        export = [a.tool, "export", "--weights", a.weights, "--size", a.size, *shlex.split(a.export)]
        call([*export, "--out", shared["model"]], environment(a, False))
        call([*export, "--full-size", "--out", shared["full"]], environment(a, False))
        ours, others = peers(a, shared)
        everybody = ours + others
        turns = {id(one): [] for one in everybody}
        try:
            for number in range(a.rounds):
                # Backwards every second time: a drift within a round meets all alike.
                for one in everybody if number % 2 == 0 else reversed(everybody):
                    print(f"round {number + 1}, {one.name}, answers {one.form}", file=sys.stderr)
                    time.sleep(PAUSE_S)
                    turns[id(one)].append(one.turn(WARM_UP, a.repetitions))
        finally:
            for one in everybody:
                one.close()
        for one in everybody:
            report["results"].append({"name": one.name, "form": one.form, "ours": one in ours, "versions": one.versions,
                                      "check": one.check, "turns": turns[id(one)]})
    text = table(report["results"])
    for key, value in report["about"].items():
        print(f"{key}: {value}")
    versions = {k: v for r in report["results"] for k, v in r["versions"].items() if k not in ("backend", "precision", "precision_used")}
    print("versions:", ", ".join(f"{k} {v}" for k, v in versions.items()))
    print(f"\n{text}")
    if a.json:
        a.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
