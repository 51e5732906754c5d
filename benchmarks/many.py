"""A checkpoint of 311,040 tensors as int4 mixtures of experts have them, 15.8 GB in four safetensors files.
    python3 many.py DIR"""
import json, os, struct, sys
import numpy as np

where, layers, experts = sys.argv[1], 60, 192
os.makedirs(where, exist_ok=True)
parts = [("qweight", "I32", [768, 48]), ("scales", "F16", [6, 384]), ("qzeros", "I32", [6, 24])]
width = {"I32": 4, "F16": 2}
noise = np.random.default_rng(7).integers(0, 256, 1 << 26, dtype=np.uint8)
weight_map, total = {}, 0
for file in range(4):
    name = f"model-{file + 1:05}-of-00004.safetensors"
    header, end = {}, 0
    for layer in range(file * layers // 4, (file + 1) * layers // 4):
        for expert in range(experts):
            for projection in ("gate", "up", "down"):
                for copy in range(3):
                    for part, dtype, shape in parts:
                        tensor = f"model.layers.{layer}.mlp.experts.{expert}.{projection}_proj.{copy}.{part}"
                        size = width[dtype] * shape[0] * shape[1]
                        header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
                        weight_map[tensor], end = name, end + size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(f"{where}/{name}", "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        left = end
        while left > 0:
            # Not the same bytes at the same place in every block.
            block = np.roll(noise, left % 65521)[: min(left, noise.size)]
            left -= out.write(block.tobytes())
    total += end
with open(f"{where}/model.safetensors.index.json", "w") as out:
    json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, out)
print(len(weight_map), "tensors,", total, "bytes")
