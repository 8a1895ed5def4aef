"""One peer of run.py, in a process of its own: loads the network, says how its answer compares with ours, and times runs.

Talks JSON, a line each: at the start {"versions", "check"}; then to each line "WARM_UP REPETITIONS" on standard input
{"wall_ms": [...], "cpu_ms": [...]}. Errors go to standard error, and the process ends.
"""

import argparse
import json
import sys
import time

import numpy as np
import yaml
from safetensors.numpy import load_file

HALF = ("fp16", "bf16")


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

    torch.set_num_threads(a.threads)
    torch.set_num_interop_threads(1)
    torch.backends.cudnn.benchmark = True
    extra_light = model.manifest["network"]["extra_light"]
    net = Network(model.classes, extra_light, a.form == "heads")
    missing, unexpected = net.load_state_dict(load_torch(f"{model.folder}/weights.safetensors"), strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        sys.exit(f"the weights do not fit: missing {missing}, unexpected {unexpected}")
    return torch, net.eval().requires_grad_(False)


def pytorch(a, model, x):
    """Eager, or compiled: (run, what makes float arrays of its answer, versions)."""
    torch, net = torch_network(a, model)
    kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[a.precision]
    layout = torch.contiguous_format if a.layout == "nchw" else torch.channels_last
    net = net.to(a.device, kind, memory_format=layout)
    x = torch.from_numpy(x).to(a.device, kind, memory_format=layout)
    if a.engine == "compile":
        import torch._inductor.config as inductor

        inductor.freezing = True
        net = torch.compile(net, mode="max-autotune" if a.device == "cuda" else None)

    def run():
        with torch.no_grad():
            answer = net(x)
        if a.device == "cuda":
            torch.cuda.synchronize()
        return answer

    return run, lambda y: [t.float().cpu().numpy() for t in y], {"torch": torch.__version__}


def onnxruntime(a, _model, x):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = a.threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(a.onnx, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
    for name in ("scores", "code"):
        binding.bind_output(name)
    return (
        lambda: session.run_with_iobinding(binding) or binding,
        lambda b: b.copy_outputs_to_cpu(),
        {"onnxruntime": ort.__version__},
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
    p.add_argument("--engine", required=True, choices=("eager", "compile", "onnxruntime", "openvino", "export-onnx"))
    p.add_argument("--model", required=True, help="model folder with weights.safetensors")
    p.add_argument("--answer", help="what `semantic_depth bench --save-answer` wrote")
    p.add_argument("--form", choices=("full", "heads"), default="full", help="answers at the input's size, or the heads'")
    p.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32")
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
    run, arrays, versions = make(a, model, model.input(answer["image"]))
    labels, depth_m = model.decode(*arrays(run()), answer["labels"].shape)
    check = compare(labels, depth_m, answer, a.precision)
    say = lambda what: print(json.dumps(what), file=channel, flush=True)  # noqa: E731
    say({"versions": versions, "check": check})
    for line in sys.stdin:
        warm_up, repetitions = map(int, line.split())
        for _ in range(warm_up):
            run()
        wall_ms, cpu_ms = [], []
        for _ in range(repetitions):
            wall, cpu = time.perf_counter_ns(), time.process_time_ns()
            run()
            wall_ms.append((time.perf_counter_ns() - wall) / 1e6)
            cpu_ms.append((time.process_time_ns() - cpu) / 1e6)
        say({"wall_ms": wall_ms, "cpu_ms": cpu_ms})
    return None


if __name__ == "__main__":
    # Libraries print to standard output: the answers have a channel of their own, and the rest goes to standard error.
    import os

    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    main()
