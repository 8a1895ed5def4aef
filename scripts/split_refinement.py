#!/usr/bin/env python3
"""split_refinement.py IN.safetensors NETWORK.safetensors REFINEMENT.safetensors: a network and what refines its depth, apart.

A training with `refinement: joint` writes both into one file; they are released as two, for the network is the article's and
has a use of its own. Needs nothing but Python.
"""

import json
import os
import struct
import sys

PREFIX = "refinement."


def write(path, metadata, tensors, data):
    """Writes the tensors of a file whose data is `data`, in the order in which they lie there."""
    header, parts, end = dict(metadata), [], 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = tensor["data_offsets"]
        header[name] = {**tensor, "data_offsets": [end, end + stop - start]}
        parts.append(data[start:stop])
        end += stop - start
    text = json.dumps(header, separators=(",", ":")).encode()
    # The format wants the data aligned, and allows blanks at the header's end for it.
    text += b" " * (-len(text) % 8)
    with open(path + ".partial", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(parts))
    os.replace(path + ".partial", path)


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__.strip())
    source, network, refinement = sys.argv[1:]
    with open(source, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        tensors = json.loads(file.read(length))
        data = file.read()
    metadata = {name: tensors.pop(name) for name in ["__metadata__"] if name in tensors}
    refining = {name: tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    if not refining or len(refining) == len(tensors):
        sys.exit(f"{source}: expected a network with its refinement ({PREFIX}...), found {len(refining)} of {len(tensors)} of it")
    write(network, metadata, {name: tensor for name, tensor in tensors.items() if name not in refining}, data)
    write(refinement, metadata, refining, data)


if __name__ == "__main__":
    main()
