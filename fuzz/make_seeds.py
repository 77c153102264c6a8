"""Writes small whole files for the fuzz targets to begin with, one folder for each target.

Run: python3 fuzz/make_seeds.py

They lie in fuzz/seeds, are the same each time, and need nothing but Python.
"""

import json
import pathlib
import struct

SEEDS = pathlib.Path(__file__).resolve().parent / "seeds"
U32, F32, BOOL, TEXT, LIST = 4, 6, 7, 8, 9
FORMATS = {U32: "<I", F32: "<f", BOOL: "<B"}
# Types of ggml with the bytes of 32 numbers.
TYPES = {0: 128, 1: 64, 2: 18, 3: 20, 6: 22, 7: 24, 8: 34}


def main():
    models = {"llama": llama("llama"), "gemma2": llama("gemma2"), "qwen2": llama("qwen2"), "phi3": llama("phi3"), "bare": gguf({}, {})}
    write("gguf_header", {name: data for name, data in models.items()})
    write("safetensors_header", {"one": safetensors({"a": ("F32", [2])}), "several": safetensors(SEVERAL), "none": safetensors({})})


SEVERAL = {"a": ("F16", [2, 3]), "b": ("BF16", [4]), "c": ("U8", []), "d": ("I64", [0, 7])}


def write(target, files):
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value(kind, item):
    if kind == TEXT:
        return text(item)
    if kind == LIST:
        inner, items = item
        return struct.pack("<IQ", inner, len(items)) + b"".join(value(inner, each) for each in items)
    return struct.pack(FORMATS[kind], item)


def gguf(values, tensors):
    """A file of version 3: `values` are (type, value) by name, `tensors` (shape, type) by name."""
    file = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    file += b"".join(text(name) + struct.pack("<I", kind) + value(kind, item) for name, (kind, item) in values.items())
    data = b""
    for name, (shape, kind) in tensors.items():
        data += b"\0" * (-len(data) % 32)
        file += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, len(data))
        numbers = 1
        for size in shape:
            numbers *= size
        data += b"\1" * (numbers // 32 * TYPES[kind])
    return file + b"\0" * (-len(file) % 32) + data


def llama(family):
    def key(name):
        return f"{family}.{name}"

    numbers = {"block_count": 1, "embedding_length": 32, "feed_forward_length": 32, "attention.head_count": 2, "context_length": 64,
               "attention.head_count_kv": 2, "attention.key_length": 16, "rope.dimension_count": 16, "attention.sliding_window": 8,
               "rope.scaling.original_context_length": 16}  # fmt: skip
    values = {"general.architecture": (TEXT, family), "general.alignment": (U32, 32)}
    values |= {key(name): (U32, number) for name, number in numbers.items()}
    values |= {key("attention.layer_norm_rms_epsilon"): (F32, 1e-5), key("rope.scaling.type"): (TEXT, "yarn"), key("rope.scaling.factor"): (F32, 2.0)}
    pieces = family in ("llama", "gemma2")
    tokens = ["<unk>", "</s>", "\u2581", "a", "b", "\u2581a", "ab", "<0x0A>"] if pieces else ["a", "b", "ab", "<|im_end|>"]
    values |= {
        "tokenizer.ggml.model": (TEXT, "llama" if pieces else "gpt2"), "tokenizer.ggml.pre": (TEXT, "qwen2"),
        "tokenizer.ggml.tokens": (LIST, (TEXT, tokens)), "tokenizer.ggml.scores": (LIST, (F32, [-float(at) for at in range(len(tokens))])),
        "tokenizer.ggml.token_type": (LIST, (U32, [3, 3] + [1] * (len(tokens) - 2))), "tokenizer.ggml.merges": (LIST, (TEXT, ["a b"])),
        "tokenizer.ggml.eos_token_id": (U32, 1), "tokenizer.ggml.add_space_prefix": (BOOL, 1),
    }  # fmt: skip
    matrices = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    tensors = {f"blk.0.{name}.weight": ([32, 32], kind) for name, kind in zip(matrices, TYPES)}
    tensors |= {name: ([32], 0) for name in ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight")}
    return gguf(values, tensors | {"token_embd.weight": ([len(tokens), 32], 8)})


def safetensors(tensors):
    sizes = {"F32": 4, "F16": 2, "BF16": 2, "U8": 1, "I64": 8}
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + sizes[dtype]
        for size in shape:
            end = start + (end - start) * size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    json_text = json.dumps(header).encode()
    return struct.pack("<Q", len(json_text)) + json_text + b"\0" * end


if __name__ == "__main__":
    main()
