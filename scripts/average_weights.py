#!/usr/bin/env python3
"""average_weights.py A.safetensors B.safetensors OUT.safetensors: the mean of two networks' weights.

Of two points of one training, or of a training and one that went on from it, the mean often does better than either
(Wortsman et al. 2022, "Model soups"). Needs nothing but Python; float32 only. What only B has, a refinement, say, is left out, and
said.
"""

import array
import json
import os
import struct
import sys


def read(path):
    """Header, its bytes, data."""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = file.read(length)
            return json.loads(header), struct.pack("<Q", length) + header, file.read()
    except (OSError, MemoryError, OverflowError, ValueError, struct.error) as error:
        sys.exit(f"{path}: expected a safetensors file: {error!r}")


def floats(data, tensor):
    start, end = tensor["data_offsets"]
    return array.array("f", data[start:end])


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__.strip())
    first, second, out = sys.argv[1:]
    tensors, header, data = read(first)
    others, _, other_data = read(second)
    result = bytearray(data)
    for name, tensor in tensors.items():
        if name == "__metadata__" or tensor["dtype"] == "I64":  # batch counters
            continue
        other = others.get(name)
        if other is None or other["shape"] != tensor["shape"] or {tensor["dtype"], other["dtype"]} != {"F32"}:
            sys.exit(f"{name}: expected float32 {tensor['shape']} in {second}, found {other}")
        start, end = tensor["data_offsets"]
        pairs = zip(floats(data, tensor), floats(other_data, other))
        result[start:end] = array.array("f", [(a + b) / 2 for a, b in pairs]).tobytes()
    left_out = sorted(name for name in others if name not in tensors and name != "__metadata__")
    if left_out:
        print(f"left out, as {first} has none: {len(left_out)} of {second}, such as {left_out[0]}", file=sys.stderr)
    with open(out + ".partial", "wb") as file:
        file.write(header + bytes(result))
    os.replace(out + ".partial", out)


if __name__ == "__main__":
    main()
