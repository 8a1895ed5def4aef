"""Makes golden.safetensors and state_dict.pth: what PyTorch answers for weights and inputs that Rust can repeat.

    python make_golden.py        # needs torch and torchvision; writes beside itself

The network is benches/peers/network.py: torchvision's own mobilenet_v3_small, and a decoder written in PyTorch from the
article's description, so the Rust network is held against an implementation that is not its own.

Weights and inputs come from an integer hash of their name and index (`hashed` here, `hashed` in tests/parity.rs):
nothing but the answers has to be kept. state_dict.pth has all keys and shapes of the full network; each tensor is one
number seen through strides of 0, so the file stays small, and it is a file that torch.save wrote.
"""

import pathlib
import sys

import numpy as np
import torch
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "benches" / "peers"))
from network import Network  # noqa: E402

SIZES = [(64, 96), (96, 160), (75, 131)]  # height, width; the last is no multiple of 32


def fnv(text):
    h = 0x811C9DC5
    for byte in text.encode():
        h = ((h ^ byte) * 0x01000193) & 0xFFFFFFFF
    return h


def hashed(name, count):
    """`count` float32 in -1 .. 1 from the name and the index."""
    h = (np.arange(count, dtype=np.uint64) * 0x9E3779B1 + fnv(name)) & 0xFFFFFFFF
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        h ^= h >> np.uint64(shift)
        h = (h * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    h ^= h >> np.uint64(16)
    return ((h >> np.uint64(8)).astype(np.float32) / np.float32(1 << 23)) - np.float32(1.0)


def fill(name, shape):
    """The value of a variable: scaled so that activations stay alive through the depth of the network."""
    count = int(np.prod(shape))
    v = hashed(name, count)
    if name.endswith("running_var"):
        v = np.float32(1.0) + np.float32(0.5) * v
    elif name.endswith("running_mean") or name.endswith("bias"):
        v = np.float32(0.1) * v
    elif len(shape) == 1:  # a batch norm's weight
        v = np.float32(1.0) + np.float32(0.25) * v
    else:
        v = v * np.float32(np.sqrt(3.0 / np.prod(shape[1:])))
    return torch.from_numpy(v.reshape(shape))


def main():
    torch.set_grad_enabled(False)
    golden = {}
    for kind, extra_light in (("full", False), ("extra_light", True)):
        net = Network(extra_light=extra_light).eval()
        state = net.state_dict()
        for name, tensor in state.items():
            if not name.endswith("num_batches_tracked"):
                tensor.copy_(fill(name, tuple(tensor.shape)))
        for height, width in SIZES[: 1 if extra_light else None]:
            x = torch.from_numpy(hashed(f"input {height}x{width}", 3 * height * width).reshape(1, 3, height, width)) * 2
            golden[f"{kind} {height}x{width}"] = torch.cat(net(x), 1).contiguous()
            print(kind, height, width, golden[f"{kind} {height}x{width}"].std().item())
        if not extra_light:
            small = {n: torch.tensor(fnv(n) % 1000 / 1000.0).expand(t.shape) if t.is_floating_point() else t for n, t in state.items()}
            ordered = type(state)(small)
            ordered._metadata = state._metadata
            torch.save(ordered, HERE / "state_dict.pth")
            keys = sorted(f"{n} {list(t.shape)}" for n, t in state.items())
            (HERE / "state_dict_keys.txt").write_text("\n".join(keys) + "\n")
            print(len(keys), "keys")
    save_file(golden, HERE / "golden.safetensors")


if __name__ == "__main__":
    main()
