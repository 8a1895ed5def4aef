"""Makes the archives of this folder: TorchScript files with TensorRT engines, written by libtorch itself.

Neither a GPU nor TensorRT is needed: engine.cpp registers a class under Torch-TensorRT's name whose pickled state is a
list of strings, as Torch-TensorRT's is; the strings are of the real form, but the plan is a header and 64 bytes.

    torch=$(python -c 'import torch, pathlib; print(pathlib.Path(torch.__file__).parent)')
    g++ -std=c++17 -shared -fPIC engine.cpp -I$torch/include -I$torch/include/torch/csrc/api/include \\
        -L$torch/lib -ltorch_cpu -lc10 -o libengine.so
    python make.py
"""

import base64

import torch

torch.classes.load_library("./libengine.so")


def strings(abi="8", name="forward_engine", count=11):
    plan = b"ftrt" + bytes(20) + bytes((10, 15, 1, 29)) + bytes(range(64))
    return [
        abi, name, "0%8%7%0%Orin", base64.b64encode(plan).decode(), "input_0", "output_0", "0", "bWV0YQ==",
        "linux_x86_64", "0", "0",
    ][:count]  # fmt: skip


class Module(torch.nn.Module):
    def __init__(self, *engines):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(2))
        for number, engine in enumerate(engines):
            setattr(self, f"engine{number}", torch.classes.tensorrt.Engine(engine))
        self.count = len(engines)

    def forward(self, x):
        y = [x]
        for number in range(self.count):
            y = torch.ops.tensorrt.execute_engine(y, getattr(self, f"engine{number}"))
        return y[0]


def traced(*engines):
    return torch.jit.trace(Module(*engines), torch.zeros(1, 3, 2, 2))


traced(strings()).save("one_engine.ts")
two = traced(strings(), strings(name="forward_engine_1"))
two.save("two_engines.ts")
torch.jit.freeze(two.eval()).save("frozen.ts")
traced(strings(abi="7", count=10)).save("abi7.ts")
