"""Unpacks a packed checkpoint and holds every tensor against its digest: written from docs/packed.md, not from the program.

    decoder.py DIR

Slow, and as plain as can be.
"""

import json
import struct
import sys

MASK = (1 << 64) - 1
G = 0x9E3779B97F4A7C15
# Bytes of a value, and bits of each plane of its rest.
FORMS = {1: (2, [8]), 2: (2, [8, 2, 1]), 3: (1, [4]), 4: (1, [2, 1])}


def mix(z):
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def digest(data):
    total = 0
    padded = data + bytes(-len(data) % 8)
    for i, (word,) in enumerate(struct.iter_unpack("<Q", padded)):
        total += mix(word + (i + 1) * G & MASK)
    return f"{mix((total & MASK) ^ (len(data) * G & MASK)):016x}"


def items(data, count, bits):
    whole = int.from_bytes(data[: (count * bits + 7) // 8], "little")
    # Through text: shifting a number of thousands of bits for each item would take for ever.
    text = bin(whole)[2:].zfill(count * bits)[-count * bits :] if count else ""
    return [int(text[i : i + bits], 2) for i in range(len(text) - bits, -1, -bits)]


def block(data, at, form, tiers, table, n1, n2):
    size, planes = FORMS[form]
    rest = []
    for bits in planes:
        rest.append(items(data[at : at + 4096], 4096, bits))
        at += 4096 * bits // 8
    first, second = (2, 2) if tiers == 1 else (3, 4)
    c0 = items(data[at : at + 2048], 4096, first)
    at += 4096 * first // 8
    c1 = items(data[at : at + 2048], n1, second)
    at += (n1 * second + 7) // 8
    if tiers == 1:
        c2 = items(data[at : at + 2048], n2, 4)
        at += (n2 * 4 + 7) // 8
        c3 = iter(data[at:])
    else:
        c2, c3 = list(data[at : at + n2]), None
    escape0, escape1 = (1 << first) - 1, (1 << second) - 1
    assert c0.count(escape0) == n1 and c1.count(escape1) == n2, "the codes do not have the escapes of the entry"
    c1, c2, out = iter(c1), iter(c2), bytearray()
    for i, code in enumerate(c0):
        exponent = table[code] if code != escape0 else None
        if exponent is None and (code := next(c1)) != escape1:
            exponent = table[escape0 + code]
        if exponent is None:
            code = next(c2)
            exponent = code if tiers == 2 else table[6 + code] if code != 15 else next(c3)
        if form == 1:
            value = rest[0][i] & 0x7F | exponent << 7 | rest[0][i] >> 7 << 15
        elif form == 2:
            value = rest[0][i] | rest[1][i] << 8 | exponent << 10 | rest[2][i] << 15
        elif form == 3:
            value = rest[0][i] & 7 | exponent << 3 | rest[0][i] >> 3 << 7
        else:
            value = rest[0][i] | exponent << 2 | rest[1][i] << 7
        out += value.to_bytes(size, "little")
    return bytes(out)


def unpack(data, number, window):
    assert data[:4] == b"SPK1"
    found, count, segments, _ = struct.unpack_from("<IIHH", data, 4)
    assert (found, count) == (window, number), "another chunk"
    starts = [struct.unpack_from("<IHBB", data, 16 + 32 * s) for s in range(segments)]
    out = bytearray()
    for s, (start, first, form, tiers) in enumerate(starts):
        end = starts[s + 1][0] if s + 1 < segments else window
        table = data[16 + 32 * s + 8 :][:22]
        size = 8192 if form < 3 else 4096
        for i, at in enumerate(range(start, end, size)):
            where, n1, n2 = struct.unpack_from("<IHH", data, 16 + 32 * segments + 8 * (first + i))
            length = min(size, end - at)
            if n1 == 65535:
                out += data[16 * where :][:length]
            elif n1 == 65534:
                out += bytes(length)
            else:
                out += block(data, 16 * where, form, tiers, table, n1, n2)
    assert len(out) == window
    return bytes(out)


def main(folder):
    with open(f"{folder}/packed_index.json", "rb") as file:
        text = file.read()
    with open(f"{folder}/sllm_gds.json", "rb") as file:
        manifest = json.load(file)
    assert manifest["requires"] == ["packed-1"] and digest(text) == manifest["index_digest"]
    index = json.loads(text)
    space = bytearray()
    for about in index["files"]:
        with open(f"{folder}/{about['file']}", "rb") as file:
            data = file.read()
        at, left = 0, about["decoded_bytes"]
        for number, (length, wanted) in enumerate(about["chunks"]):
            chunk = data[at : at + length]
            assert digest(chunk) == wanted, "a chunk is damaged"
            window = min(index["window_bytes"], left)
            space += unpack(chunk, number, window)
            at, left = at + length, left - window
        assert (at, left) == (len(data), 0)
    for name, (offset, size, *_) in index["tensors"].items():
        assert digest(bytes(space[offset : offset + size])) == manifest["tensors"][name], name
    print(len(index["tensors"]), "tensors are right")


main(sys.argv[1])
