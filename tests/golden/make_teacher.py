"""Makes a TorchScript stereo network: a block matcher out of PyTorch's own operations.

    python make_teacher.py [MAX_DISPARITY [FILE]]        # needs torch; by default 24 and block_matcher.pt beside itself

It has no weights, so the file is small, and it truly finds disparity: mean absolute difference of grey over 7 x 7
pixels, the least one, and a parabola between whole pixels. It is a module of two pictures as docs/DEPTH.md describes
them, scripted, so it takes any size.
"""

import pathlib
import sys

import torch
import torch.nn.functional as F


class BlockMatcher(torch.nn.Module):
    def __init__(self, max_disparity: int):
        super().__init__()
        self.max_disparity = max_disparity

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        left = left.mean(1, True)
        right = right.mean(1, True)
        width = left.shape[3]
        costs = []
        for d in range(self.max_disparity):
            moved = F.pad(right, [d, 0, 0, 0], mode="replicate")[:, :, :, :width]
            costs.append(F.avg_pool2d((left - moved).abs(), 7, 1, 3, False, False))
        volume = torch.cat(costs, 1)
        least, best = volume.min(1, True)
        inner = best.clamp(1, self.max_disparity - 2)
        below, at, above = volume.gather(1, inner - 1), volume.gather(1, inner), volume.gather(1, inner + 1)
        shift = (below - above) / (2 * (below - 2 * at + above)).clamp(min=1e-6)
        refined = inner.to(left.dtype) + shift.clamp(-0.5, 0.5)
        return torch.where(best == inner, refined, best.to(left.dtype))


if __name__ == "__main__":
    here = pathlib.Path(__file__).parent
    max_disparity = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    path = sys.argv[2] if len(sys.argv) > 2 else here / "block_matcher.pt"
    torch.jit.script(BlockMatcher(max_disparity)).save(str(path))
