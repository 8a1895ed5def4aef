"""The article's network in PyTorch, under the names of its published state dict: torchvision's encoder, and the decoder
written from the article's description. tests/golden/make_golden.py holds the Rust network against it, and run.py times it.
"""

import torch.nn.functional as F
from torch import nn
from torchvision.models import mobilenet_v3_small

WIDTH = 256


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
    def __init__(self, classes, extra_light):
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
        self.seg = nn.Conv2d(WIDTH, classes, 3, padding=1)

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
    """Answers class scores and the depth code, at the input's size or (`at_heads`) as the heads give them, at a quarter."""

    def __init__(self, classes=20, extra_light=False, at_heads=False):
        super().__init__()
        self.encoder = Encoder()
        self.decoder = Decoder(classes, extra_light)
        self.at_heads = at_heads

    def forward(self, x):
        answers = self.decoder(self.encoder(x))
        if self.at_heads:
            return answers
        return tuple(F.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=False) for y in answers)
