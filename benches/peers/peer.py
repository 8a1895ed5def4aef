"""One peer of run.py, in a process of its own: loads the network, says how its answer compares with ours, and times runs.

Talks JSON, a line each: at the start {"versions", "check", "frame_check"}; then to each line "WARM_UP REPETITIONS WHAT" on
standard input (WHAT: network or frame) {"wall_ms": [...], "cpu_ms": [...], "device_ms": [...]}, the last on a GPU only. Errors
go to standard error, and the process ends.
"""

import argparse
import json
import sys
import time

import numpy as np
import yaml
from safetensors.numpy import load_file

HALF = ("fp16", "bf16")
KINDS = ("fp32", *HALF)


class Model:
    """What the manifest says of the input and the answer."""

    def __init__(self, folder):
        with open(f"{folder}/model.yaml", encoding="utf-8") as file:
            self.manifest = yaml.safe_load(file)
        self.folder = folder
        self.classes = self.manifest["output"]["score_channels"]

    def input(self, image):
        """`[1, 3, H, W]` of the picture `[H, W, 3]`."""
        spec = self.manifest["input"]
        image = image[..., ::-1] if spec["channel_order"] == "bgr" else image
        x = (image.astype(np.float32) / 255 - np.float32(spec["mean"])) / np.float32(spec["std"])
        return np.ascontiguousarray(x.transpose(2, 0, 1)[None])

    def decode(self, scores, code, size):
        """Labels and metres at `size` (height, width) of answers `[1, channels, h, w]` of any size."""
        scores, code = enlarge(scores[0], size), enlarge(code[0], size)[0]
        ids = np.array([c["id"] for c in self.manifest["classes"]], np.uint8)
        d = self.manifest["output"]["depth"]
        return ids[scores.argmax(0)], np.clip(np.exp(d["scale"] * code), d["min_m"], d["max_m"])


def enlarge(maps, size):
    """`[C, h, w]` to `[C, H, W]`, bilinear with half-pixel centres; as it is where it has that size."""
    for axis, n in ((1, size[0]), (2, size[1])):
        m = maps.shape[axis]
        if m == n:
            continue
        at = np.clip((np.arange(n) + 0.5) * m / n - 0.5, 0, m - 1).astype(np.float32)
        low = np.floor(at).astype(int)
        weight = (at - low).reshape((1, n, 1) if axis == 1 else (1, 1, n))
        maps = maps.take(low, axis) * (1 - weight) + maps.take(np.minimum(low + 1, m - 1), axis) * weight
    return maps


def compare(labels, depth_m, answer, precision):
    """How two answers to the same picture agree; ends the process where they are not of the same network."""
    relative = np.abs(depth_m - answer["depth_m"]) / np.maximum(answer["depth_m"], 1e-3)
    found = {
        "labels_equal": float((labels == answer["labels"]).mean()),
        "depth_median_difference": float(np.median(relative)),
        "depth_p99_difference": float(np.quantile(relative, 0.99)),
    }
    least, most = (0.98, 0.1) if precision in HALF else (0.999, 1e-3)
    if not (found["labels_equal"] >= least and found["depth_median_difference"] <= most):
        sys.exit(f"this is not the same answer: {found}; expected labels_equal >= {least} and a median difference of depth <= {most}")
    return found


def torch_network(a, model):
    """The network in PyTorch with the model's weights, on the device, and a picture's input."""
    import torch
    from safetensors.torch import load_file as load_torch

    from network import Network

    torch.set_grad_enabled(False)
    torch.set_num_threads(a.threads)
    torch.set_num_interop_threads(1)
    torch.backends.cudnn.benchmark = True
    if a.strict:
        torch.backends.cudnn.allow_tf32 = False
    extra_light = model.manifest["network"]["extra_light"]
    net = Network(model.classes, extra_light, a.form == "heads")
    missing, unexpected = net.load_state_dict(load_torch(f"{model.folder}/weights.safetensors"), strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        sys.exit(f"the weights do not fit: missing {missing}, unexpected {unexpected}")
    return torch, net.eval().requires_grad_(False)


def pytorch(a, model, x):
    """Eager, compiled, or captured as one CUDA graph: (run, what makes float arrays of its answer, versions, frames)."""
    torch, net = torch_network(a, model)
    kind = dict(zip(KINDS, (torch.float32, torch.float16, torch.bfloat16), strict=True))[a.precision]
    layout = torch.contiguous_format if a.layout == "nchw" else torch.channels_last
    net = net.to(a.device, kind, memory_format=layout)
    x = torch.from_numpy(x).to(a.device, kind, memory_format=layout)
    if a.engine == "compile":
        import torch._inductor.config as inductor

        inductor.freezing = True
        net = torch.compile(net, mode=a.compile_mode)
    run = captured(a, torch, lambda: net(x)) if a.engine == "graph" else lambda: net(x)

    def frames(size, quickly=False):
        return Frames(a, torch, model, net, kind, layout, size, compiled=a.engine == "compile" and not quickly)

    return run, lambda y: [t.float().cpu().numpy() for t in y], {"torch": torch.__version__}, frames


def captured(a, torch, work):
    """`work` as a CUDA graph; the answer's memory is the same in each run."""
    if a.device != "cuda":
        sys.exit("only a GPU has graphs: --device cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = work()

    def run():
        graph.replay()
        return answer

    return run


class Frames:
    """What a user feels: an rgb8 picture in host memory to labels (u8) and metres (f32) of its size in host memory, all of it
    but the copies on the device. On a GPU the host's side is pinned, and the picture is first copied there."""

    def __init__(self, a, torch, model, net, kind, layout, size, compiled):
        height, width = size
        spec, depth = model.manifest["input"], model.manifest["output"]["depth"]
        network_size = (spec["height"], spec["width"])
        order = [2, 1, 0] if spec["channel_order"] == "bgr" else [0, 1, 2]
        place = {"device": a.device, "dtype": kind}
        mean, std = (torch.tensor(spec[name], **place).view(1, 3, 1, 1) for name in ("mean", "std"))
        factor, offset = 1 / (255 * std), -mean / std
        ids = torch.tensor([c["id"] for c in model.manifest["classes"]], dtype=torch.uint8, device=a.device)
        gpu = a.device == "cuda"
        self.torch = torch
        self.staging = torch.empty(height, width, 3, dtype=torch.uint8, pin_memory=gpu)
        self.labels = torch.empty(height, width, dtype=torch.uint8, pin_memory=gpu)
        self.depth_m = torch.empty(height, width, dtype=torch.float32, pin_memory=gpu)
        resize = torch.nn.functional.interpolate

        def before(picture):
            x = picture.permute(2, 0, 1)[None].to(kind)
            if order != [0, 1, 2]:
                x = x[:, order]
            if network_size != (height, width):
                x = resize(x, size=network_size, mode="bilinear", align_corners=False)
            return (x * factor + offset).contiguous(memory_format=layout)

        def after(scores, code):
            if tuple(scores.shape[2:]) != (height, width):
                scores, code = (resize(y, size=(height, width), mode="bilinear", align_corners=False) for y in (scores, code))
            metres = (depth["scale"] * code[0, 0].float()).exp().clamp(depth["min_m"], depth["max_m"])
            return ids[scores[0].argmax(0)], metres

        if compiled:
            # The network has been compiled with care; what is before and after it is compiled with little of it.
            before, after = (torch.compile(f, dynamic=False) for f in (before, after))

        def work():
            labels, metres = after(*net(before(self.staging.to(a.device, non_blocking=True))))
            self.labels.copy_(labels, non_blocking=True)
            self.depth_m.copy_(metres, non_blocking=True)

        self.work = captured(a, torch, work) if a.engine == "graph" else work

    def run(self, picture):
        self.staging.copy_(picture)
        return self.work()


def onnxruntime(a, _model, x):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = a.threads
    options.inter_op_num_threads = 1
    provider = "CUDAExecutionProvider" if a.device == "cuda" else "CPUExecutionProvider"
    if a.device == "cuda" and hasattr(ort, "preload_dlls"):
        # CUDA's libraries of the wheels that PyTorch brings.
        ort.preload_dlls()
    session = ort.InferenceSession(a.onnx, options, providers=[provider])
    if session.get_providers()[0] != provider:
        # It would run on the processor without a word.
        sys.exit(f"ONNX Runtime cannot use {provider}; it took {session.get_providers()}")
    binding = session.io_binding()
    # Input and answer are on the device; a run ends when its answer is there.
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x, a.device, 0))
    for name in ("scores", "code"):
        binding.bind_output(name, a.device)
    return (
        lambda: session.run_with_iobinding(binding) or binding,
        lambda b: b.copy_outputs_to_cpu(),
        {"onnxruntime": ort.__version__},
        None,
    )


def openvino(a, _model, x):
    import openvino as ov

    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": a.threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[a.precision],
    }
    core = ov.Core()
    compiled = core.compile_model(core.read_model(a.onnx), "CPU", config)
    used = str(compiled.get_property("INFERENCE_PRECISION_HINT"))
    request = compiled.create_infer_request()
    # A copy that the tensor owns: a shared one would be gone with `x`.
    request.set_input_tensor(ov.Tensor(x))
    return (
        lambda: request.infer() and request,
        lambda r: [r.get_output_tensor(i).data.astype(np.float32) for i in range(2)],
        {"openvino": ov.__version__, "precision_used": used},
        None,
    )


def export_onnx(a, model):
    """What ONNX Runtime and OpenVINO read."""
    torch, net = torch_network(a, model)
    size = model.manifest["input"]
    x = torch.zeros(1, 3, size["height"], size["width"])
    # The exporter by tracing: the other one needs onnxscript.
    torch.onnx.export(net, (x,), a.onnx, input_names=["x"], output_names=["scores", "code"], opset_version=17, dynamo=False)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--engine", required=True, choices=("eager", "compile", "graph", "onnxruntime", "openvino", "export-onnx"))
    p.add_argument("--model", required=True, help="model folder with weights.safetensors")
    p.add_argument("--answer", help="what `semantic_depth bench --save-answer` wrote")
    p.add_argument("--form", choices=("full", "heads"), default="full", help="answers at the input's size, or the heads'")
    p.add_argument("--precision", choices=KINDS, default="fp32")
    p.add_argument("--strict", action="store_true", help="without TF32, which PyTorch's convolutions use for fp32 on a GPU")
    p.add_argument("--compile-mode", help="torch.compile's mode")
    p.add_argument("--frame", metavar="WIDTHxHEIGHT", help="whole frames of this size can be asked for, too")
    p.add_argument("--layout", choices=("nchw", "nhwc"), default="nhwc")
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--onnx", help="ONNX file to read or write")
    a = p.parse_args()
    model = Model(a.model)
    if a.engine == "export-onnx":
        return export_onnx(a, model)
    answer = load_file(a.answer)
    make = {"onnxruntime": onnxruntime, "openvino": openvino}.get(a.engine, pytorch)
    run, arrays, versions, frames = make(a, model, model.input(answer["image"]))
    serve(a, model, answer, run, arrays, versions, frames)
    return None


def serve(a, model, answer, run, arrays, versions, frames):
    """Says how the answers agree, and times what is asked for."""
    torch = sys.modules.get("torch")
    # ONNX Runtime has no events, and waits for the device itself.
    gpu = a.device == "cuda" and a.engine != "onnxruntime"
    wait = torch.cuda.synchronize if gpu else lambda: None
    # PyTorch and ONNX Runtime multiply single precision as TF32 on a GPU, which has as many bits as fp16.
    precision = "fp16" if a.device == "cuda" and a.precision == "fp32" and not a.strict else a.precision
    labels, depth_m = model.decode(*arrays(run()), answer["labels"].shape)
    hello = {"versions": versions, "check": compare(labels, depth_m, answer, precision), "frame_check": None}
    works = {"network": run}
    if a.frame and frames:
        shape = answer["labels"].shape
        check = frames(shape, quickly=True)
        check.run(torch.from_numpy(answer["image"]))
        wait()
        hello["frame_check"] = compare(check.labels.numpy(), check.depth_m.numpy(), answer, precision)
        width, height = map(int, a.frame.split("x"))
        whole = frames((height, width))
        # What is seen makes no difference to the time: the picture, as often as it takes.
        times = (-(-height // shape[0]), -(-width // shape[1]), 1)
        picture = torch.from_numpy(np.ascontiguousarray(np.tile(answer["image"], times)[:height, :width]))
        works["frame"] = lambda: whole.run(picture)
        works["frame"]()
        wait()
    say = lambda what: print(json.dumps(what), file=channel, flush=True)  # noqa: E731
    say(hello)
    for line in sys.stdin:
        warm_up, repetitions, what = line.split()
        work = works[what]
        for _ in range(int(warm_up)):
            work()
        wait()
        wall_ms, cpu_ms, device_ms = [], [], []
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if gpu else []
        for _ in range(int(repetitions)):
            wall, cpu = time.perf_counter_ns(), time.process_time_ns()
            if gpu:
                events[0].record()
                work()
                events[1].record()
                # Also the end of the wall clock: one synchronisation a run.
                torch.cuda.synchronize()
            else:
                work()
            wall_ms.append((time.perf_counter_ns() - wall) / 1e6)
            cpu_ms.append((time.process_time_ns() - cpu) / 1e6)
            if gpu:
                device_ms.append(events[0].elapsed_time(events[1]))
        say({"wall_ms": wall_ms, "cpu_ms": cpu_ms, **({"device_ms": device_ms} if gpu else {})})


if __name__ == "__main__":
    # Libraries print to standard output: the answers have a channel of their own, and the rest goes to standard error.
    import os

    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    main()
