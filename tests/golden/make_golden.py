"""Makes golden.safetensors and state_dict.pth: what PyTorch answers for weights and inputs that Rust can repeat.

    python make_golden.py        # needs torch and torchvision; writes beside itself

The encoder is torchvision's own mobilenet_v3_small, the decoder is written here in PyTorch from the article's
description, so the Rust network is held against an implementation that is not its own.

Weights and inputs come from an integer hash of their name and index (`hashed` here, `hashed` in tests/parity.rs):
nothing but the answers has to be kept. state_dict.pth has all keys and shapes of the full network; each tensor is one
number seen through strides of 0, so the file stays small, and it is a file that torch.save wrote.
"""

import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torchvision.models import mobilenet_v3_small

HERE = pathlib.Path(__file__).parent
SIZES = [(64, 96), (96, 160), (75, 131)]  # height, width; the last is no multiple of 32
WIDTH = 256


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


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = mobilenet_v3_small(weights=None).features

    def forward(self, x):
        skips = {}
        for index, block in enumerate(self.backbone[:12]):
            x = block(x)
            skips[index] = x
        return skips


class Pooling(nn.Module):
    """Chained residual pooling; each pool and each projection is added."""

    def __init__(self, groups=1):
        super().__init__()
        parts = []
        for _ in range(4):
            parts += [nn.MaxPool2d(5, 1, 2), nn.Conv2d(WIDTH, WIDTH, 1, bias=False, groups=groups)]
        self.mini_blocks = nn.ModuleList(parts)

    def forward(self, x):
        total, top = x, x
        for part in self.mini_blocks:
            top = part(top)
            total = total + top
        return total


class Decoder(nn.Module):
    def __init__(self, extra_light):
        super().__init__()
        for name, inputs in (("conv1", 96), ("conv2", 96), ("conv3", 48), ("conv4", 48), ("conv5", 24)):
            self.add_module(name, nn.Conv2d(inputs, WIDTH, 1, bias=False))
        for name in ("crp1", "crp2", "crp3"):
            self.add_module(name, Pooling())
        for name in ("conv_adapt1", "conv_adapt3"):
            self.add_module(name, nn.Conv2d(WIDTH, WIDTH, 1, bias=False))
        self.extra_light = extra_light
        if not extra_light:
            self.conv6 = nn.Conv2d(16, WIDTH, 1, bias=False)
            self.crp4 = Pooling(groups=WIDTH)
            self.conv_adapt2 = nn.Conv2d(WIDTH, WIDTH, 1, bias=False)
        self.pre_depth = nn.Conv2d(WIDTH, WIDTH, 1, groups=WIDTH, bias=False)
        self.depth = nn.Conv2d(WIDTH, 1, 3, padding=1)
        self.pre_seg = nn.Conv2d(WIDTH, WIDTH, 1, groups=WIDTH, bias=False)
        self.seg = nn.Conv2d(WIDTH, 20, 3, padding=1)

    def forward(self, skips):
        def to(x, like):
            return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)

        y = F.relu6(self.conv2(skips[10]) + self.conv1(skips[11]))
        y = to(self.conv_adapt1(self.crp1(y)), skips[8])
        y = F.relu6(self.conv4(skips[7]) + self.conv3(skips[8]) + y)
        y = to(self.conv_adapt3(self.crp2(y)), skips[3])
        y = self.crp3(F.relu6(y + self.conv5(skips[3])))
        if not self.extra_light:
            y = to(self.conv_adapt2(y), skips[1])
            y = self.crp4(F.relu6(self.conv6(skips[1]) + y))
        return self.seg(F.relu6(self.pre_seg(y))), self.depth(F.relu6(self.pre_depth(y)))


class Network(nn.Module):
    def __init__(self, extra_light=False):
        super().__init__()
        self.encoder = Encoder()
        self.decoder = Decoder(extra_light)

    def forward(self, x):
        up = [F.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=False) for y in self.decoder(self.encoder(x))]
        return torch.cat(up, 1)


def main():
    torch.set_grad_enabled(False)
    golden = {}
    for kind, extra_light in (("full", False), ("extra_light", True)):
        net = Network(extra_light).eval()
        state = net.state_dict()
        for name, tensor in state.items():
            if not name.endswith("num_batches_tracked"):
                tensor.copy_(fill(name, tuple(tensor.shape)))
        for height, width in SIZES[: 1 if extra_light else None]:
            x = torch.from_numpy(hashed(f"input {height}x{width}", 3 * height * width).reshape(1, 3, height, width)) * 2
            golden[f"{kind} {height}x{width}"] = net(x).contiguous()
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
