"""Makes optimizer.safetensors: where PyTorch's Adam and AdamW arrive with parameters and gradients that Rust repeats.

    python make_optimizer.py        # needs torch and safetensors; writes beside itself

Parameters and gradients are small fractions that follow from whole numbers, exact in float32 (`number` here and in
src/train/optimizer.rs). Kept are the parameters after one step and after ten, and the moments after ten.
"""

import pathlib

import torch
from safetensors.torch import save_file

SHAPES = [(7,), (3, 4), (2, 3, 3, 3), ()]
RULES = {
    "adam": (torch.optim.Adam, {}),
    "adam decay": (torch.optim.Adam, {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.05}),
    "adamw decay": (torch.optim.AdamW, {"weight_decay": 0.05}),
}


def number(which, step, index):
    return ((index * 7 + step * 3 + which * 5) % 11 - 5) / 8


def tensor(which, step):
    count = torch.Size(SHAPES[which]).numel()
    return torch.tensor([number(which, step, i) for i in range(count)], dtype=torch.float32).reshape(SHAPES[which])


def main():
    golden = {}
    for kind, (rule, options) in RULES.items():
        parameters = [torch.nn.Parameter(tensor(k, 0)) for k in range(len(SHAPES))]
        optimizer = rule(parameters, foreach=False, **options)
        for step in range(1, 11):
            for k, p in enumerate(parameters):
                p.grad = tensor(k, step)
            optimizer.param_groups[0]["lr"] = 0.01 / step
            optimizer.step()
            if step in (1, 10):
                golden |= {f"{kind} {step} p{k}": p.detach().clone() for k, p in enumerate(parameters)}
        for k, p in enumerate(parameters):
            state = optimizer.state[p]
            golden |= {f"{kind} 10 p{k}.{name}": state[name].clone() for name in ("exp_avg", "exp_avg_sq")}
    save_file(golden, pathlib.Path(__file__).with_name("optimizer.safetensors"))


if __name__ == "__main__":
    main()
