"""A Llama out of a GGUF file in double precision with numpy: what the file's weights say, without any rounding on the way.

`Llama(path).logits(ids)` is the model as its weights define it. `rounded=True` rounds what quantised matrices multiply to 8 bits in
groups of 32, as llama.cpp and kserved do, and computes all else in double precision. It shares nothing with kserved.
"""

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

GROUP = 32
# GPT-2 writes each byte of a token as one printable character.
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
BYTE_OF = {chr(byte): byte for byte in PRINTABLE} | {chr(256 + at): byte for at, byte in enumerate(OTHERS)}


class Llama:
    """One model; weights are kept in single precision, which holds them exactly."""

    def __init__(self, path):
        reader = GGUFReader(path)
        self.weights = {tensor.name: dequantize(tensor.data, tensor.tensor_type).astype(np.float32) for tensor in reader.tensors}
        self.plain = {tensor.name for tensor in reader.tensors if tensor.tensor_type.name in ("F32", "F16", "BF16")}
        number = {name: field.contents() for name, field in reader.fields.items() if name.startswith("llama.")}
        self.layers, self.heads, self.kv_heads = (number[f"llama.{name}"] for name in ("block_count", "attention.head_count", "attention.head_count_kv"))
        self.texts = [text_of(token) for token in reader.fields["tokenizer.ggml.tokens"].contents()]
        self.hidden, self.epsilon = number["llama.embedding_length"], number["llama.attention.layer_norm_rms_epsilon"]
        self.head, self.base = self.hidden // self.heads, number["llama.rope.freq_base"]

    def logits(self, ids, rounded=False, ties_away=False, half_scale=True, half_kv=False, nudge=0.0):
        """The logits behind each token. `nudge` moves each embedding by such a part, up and down in turn."""
        self.rounding = (ties_away, half_scale) if rounded else None
        x = self.weights["token_embd.weight"][ids].astype(np.float64)
        x = x * (1 + nudge * np.resize([1.0, -1.0], x.shape))
        for layer in range(self.layers):
            own = f"blk.{layer}."
            x = x + self.attention(own, self.norm(x, own + "attn_norm.weight"), half_kv)
            fed = self.norm(x, own + "ffn_norm.weight")
            gate, up = self.times(own + "ffn_gate.weight", fed), self.times(own + "ffn_up.weight", fed)
            x = x + self.times(own + "ffn_down.weight", gate / (1 + np.exp(-gate)) * up)
        head = "output.weight" if "output.weight" in self.weights else "token_embd.weight"
        return self.times(head, self.norm(x, "output_norm.weight"))

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.epsilon) * self.weights[name]

    def attention(self, own, x, half_kv):
        count = len(x)
        q, k, v = (self.times(f"{own}attn_{part}.weight", x).reshape(count, -1, self.head) for part in "qkv")
        q, k = self.turn(q), self.turn(k)
        if half_kv:
            k, v = (part.astype(np.float16).astype(np.float64) for part in (k, v))
        k, v = (np.repeat(part, self.heads // self.kv_heads, axis=1) for part in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(self.head)
        scores = np.where(np.triu(np.ones((count, count), bool), 1), -np.inf, scores)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        return self.times(own + "attn_output.weight", np.einsum("hqk,khd->qhd", shares, v).reshape(count, -1))

    def turn(self, x):
        """Pairs are neighbours in llama.cpp's order of rows."""
        angles = np.arange(len(x))[:, None] * self.base ** (-np.arange(0, self.head, 2) / self.head)
        cosine, sine = np.cos(angles)[:, None, :], np.sin(angles)[:, None, :]
        even, odd, out = x[..., 0::2], x[..., 1::2], np.empty_like(x)
        out[..., 0::2], out[..., 1::2] = even * cosine - odd * sine, even * sine + odd * cosine
        return out

    def times(self, name, x):
        if self.rounding and name not in self.plain:
            x = eight_bits(x, *self.rounding)
        return x @ self.weights[name].T.astype(np.float64)


def eight_bits(x, ties_away, half_scale):
    """The nearest multiples of a 127th of the largest number of each group."""
    groups = x.astype(np.float32).reshape(len(x), -1, GROUP)
    largest = np.abs(groups).max(-1, keepdims=True)
    scale = largest / np.float32(127)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    scaled = groups * inverse
    whole = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)) if ties_away else np.rint(scaled)
    scale = scale.astype(np.float16) if half_scale else scale
    return (whole.astype(np.float64) * scale.astype(np.float64)).reshape(x.shape)


def log_probabilities(logits):
    """Of each row."""
    largest = logits.max(-1, keepdims=True)
    return logits - largest - np.log(np.exp(logits - largest).sum(-1, keepdims=True))


def text_of(token):
    return bytes(BYTE_OF.get(letter, 63) for letter in token).decode(errors="replace")
