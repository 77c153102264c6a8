"""Tiny language models of every family from a seed, in Hugging Face's layout, and what they must answer.

The reference computes in double precision with numpy, token by token and without any cache; it shares nothing with kserved.
Every token is one printable character, so a text is its token ids.
"""

import json
import math
import pathlib
from dataclasses import dataclass, field

import numpy as np

LETTERS = "".join(chr(code) for code in range(33, 127))
END = len(LETTERS)
VOCABULARY = END + 1
HIDDEN, FEED_FORWARD, LAYERS, HEADS, KV_HEADS, HEAD = 64, 96, 7, 4, 2, 32
WINDOW = 8


@dataclass(frozen=True)
class Family:
    """What tells a family apart from Llama."""

    kind: str
    config: dict = field(default_factory=dict)
    bias: bool = False
    head_norms: bool = False
    gemma: bool = False
    post_norms: bool = False
    fused: bool = False
    tied: bool = False
    windowed: tuple = ()
    theta: float = 10000.0
    local_theta: float = 0.0
    attention_cap: float = 0.0
    logit_cap: float = 0.0
    query_scale: float = HEAD**-0.5


GEMMA = {"hidden_activation": "gelu_pytorch_tanh"}
FAMILIES = {
    "llama": Family("llama"),
    "mistral": Family("mistral", {"sliding_window": WINDOW}, windowed=tuple(range(LAYERS))),
    "qwen2": Family("qwen2", {"tie_word_embeddings": True}, bias=True, tied=True, theta=1e6),
    "qwen3": Family("qwen3", head_norms=True, theta=1e6),
    "gemma": Family("gemma", {"hidden_act": "gelu"}, gemma=True, tied=True),
    "gemma2": Family(
        "gemma2",
        GEMMA | {"sliding_window": WINDOW, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 4.0, "query_pre_attn_scalar": 16},
        gemma=True, post_norms=True, tied=True, windowed=tuple(range(0, LAYERS, 2)), attention_cap=5.0, logit_cap=4.0, query_scale=0.25,
    ),
    "gemma3": Family(
        "gemma3_text",
        GEMMA | {"sliding_window": WINDOW, "query_pre_attn_scalar": 16, "rope_local_base_freq": 10000.0},
        gemma=True, head_norms=True, post_norms=True, tied=True, windowed=(0, 1, 2, 3, 4, 6), theta=1e6, local_theta=10000.0, query_scale=0.25,
    ),
    "phi3": Family("phi3", fused=True),
}  # fmt: skip


def weights_of(family, seed):
    """Random weights under Hugging Face's names, in single precision."""
    random = np.random.default_rng(seed)

    def matrix(rows, columns):
        return (random.standard_normal((rows, columns)) / math.sqrt(columns) * 1.4).astype(np.float32)

    def norm(size):
        return ((0.0 if family.gemma else 1.0) + random.standard_normal(size) / 10).astype(np.float32)

    # Where the embeddings are the head too, large ones would only say the last token again.
    scale = 4 if not family.tied else 0.2 if family.gemma else 1
    weights = {"model.embed_tokens.weight": matrix(VOCABULARY, HIDDEN) * np.float32(scale), "model.norm.weight": norm(HIDDEN)}
    if not family.tied:
        weights["lm_head.weight"] = matrix(VOCABULARY, HIDDEN) * np.float32(2)
    for layer in range(LAYERS):
        parts = {"self_attn.q_proj": HEADS * HEAD, "self_attn.k_proj": KV_HEADS * HEAD, "self_attn.v_proj": KV_HEADS * HEAD}
        own = {}
        if family.fused:
            own["self_attn.qkv_proj.weight"] = matrix(sum(parts.values()), HIDDEN)
            own["mlp.gate_up_proj.weight"] = matrix(2 * FEED_FORWARD, HIDDEN)
        else:
            own |= {f"{name}.weight": matrix(rows, HIDDEN) for name, rows in parts.items()}
            own |= {f"mlp.{name}_proj.weight": matrix(FEED_FORWARD, HIDDEN) for name in ("gate", "up")}
        if family.bias:
            own |= {f"{name}.bias": random.standard_normal(rows).astype(np.float32) for name, rows in parts.items()}
        if family.head_norms:
            own |= {f"self_attn.{name}_norm.weight": norm(HEAD) for name in ("q", "k")}
        own |= {"self_attn.o_proj.weight": matrix(HIDDEN, HEADS * HEAD), "mlp.down_proj.weight": matrix(HIDDEN, FEED_FORWARD)}
        norms = ["input_layernorm", "post_attention_layernorm"]
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"] if family.post_norms else []
        own |= {f"{name}.weight": norm(HIDDEN) for name in norms}
        weights |= {f"model.layers.{layer}.{name}": value for name, value in own.items()}
    return weights


def save_file(tensors, path):
    """Writes safetensors: the header's length, the header, the numbers."""
    header, data = {}, b""
    for name, tensor in tensors.items():
        start, data = len(data), data + tensor.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write(folder, name, seed=1):
    """Writes the model's folder; gives its weights for the reference."""
    family, folder = FAMILIES[name], pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = weights_of(family, seed)
    save_file(weights, folder / "model.safetensors")
    config = {
        "architectures": [f"{name.capitalize()}ForCausalLM"], "model_type": family.kind, "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": HEAD, "max_position_embeddings": 256, "rms_norm_eps": 1e-6,
        "rope_theta": family.theta, "vocab_size": VOCABULARY, "hidden_act": "silu",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | family.config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": END}))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    return weights


def tokenizer():
    end = {"id": END, "content": "<end>", "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "vocab": {letter: at for at, letter in enumerate(LETTERS)}, "merges": []}  # fmt: skip
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [end], "normalizer": None, "pre_tokenizer": level,
            "post_processor": None, "decoder": level, "model": model}  # fmt: skip


def ids(text):
    return [LETTERS.index(letter) for letter in text]


class Reference:
    """The same model in double precision."""

    def __init__(self, name, weights):
        self.family = FAMILIES[name]
        self.weights = {name: value.astype(np.float64) for name, value in weights.items()}

    def answer(self, prompt, count):
        """The likeliest tokens one after another, and how far each was ahead of the next one."""
        tokens, margins = list(prompt), []
        for _ in range(count):
            logits = self.logits(tokens)
            logits[END] = -np.inf
            second, first = np.sort(logits)[-2:]
            margins.append(first - second)
            tokens.append(int(np.argmax(logits)))
        return tokens[len(prompt) :], min(margins)

    def logits(self, tokens):
        family, weight = self.family, self.weights
        x = weight["model.embed_tokens.weight"][tokens] * (math.sqrt(HIDDEN) if family.gemma else 1.0)
        for layer in range(LAYERS):
            own = {name.removeprefix(f"model.layers.{layer}."): value for name, value in weight.items() if f"model.layers.{layer}." in name}
            attended = self.attention(layer, own, self.norm(x, own["input_layernorm.weight"]))
            if family.post_norms:
                attended = self.norm(attended, own["post_attention_layernorm.weight"])
            x = x + attended
            before = "pre_feedforward_layernorm" if family.post_norms else "post_attention_layernorm"
            fed = self.feed_forward(own, self.norm(x, own[f"{before}.weight"]))
            if family.post_norms:
                fed = self.norm(fed, own["post_feedforward_layernorm.weight"])
            x = x + fed
        head = weight["model.embed_tokens.weight" if family.tied else "lm_head.weight"]
        logits = head @ self.norm(x, weight["model.norm.weight"])[-1]
        return family.logit_cap * np.tanh(logits / family.logit_cap) if family.logit_cap else logits

    def norm(self, x, weight):
        factor = weight + (1.0 if self.family.gemma else 0.0)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * factor

    def attention(self, layer, own, x):
        family, count = self.family, len(x)
        if family.fused:
            q, k, v = np.split(x @ own["self_attn.qkv_proj.weight"].T, [HEADS * HEAD, (HEADS + KV_HEADS) * HEAD], axis=1)
        else:
            q, k, v = (x @ own[f"self_attn.{name}_proj.weight"].T + own.get(f"self_attn.{name}_proj.bias", 0.0) for name in "qkv")
        q, k, v = (part.reshape(count, -1, HEAD) for part in (q, k, v))
        if family.head_norms:
            q, k = self.norm(q, own["self_attn.q_norm.weight"]), self.norm(k, own["self_attn.k_norm.weight"])
        theta = family.local_theta if family.local_theta and layer in family.windowed else family.theta
        q, k = self.turn(q, theta), self.turn(k, theta)
        k, v = (np.repeat(part, HEADS // KV_HEADS, axis=1) for part in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) * family.query_scale
        if family.attention_cap:
            scores = family.attention_cap * np.tanh(scores / family.attention_cap)
        distance = np.arange(count)[:, None] - np.arange(count)[None, :]
        hidden = (distance < 0) | ((distance >= WINDOW) if layer in family.windowed else False)
        scores = np.where(hidden, -np.inf, scores)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        return np.einsum("hqk,khd->qhd", shares, v).reshape(count, -1) @ own["self_attn.o_proj.weight"].T

    @staticmethod
    def turn(x, theta):
        angles = np.arange(len(x))[:, None] * theta ** (-np.arange(0, HEAD, 2) / HEAD)
        cosine, sine = np.cos(angles)[:, None, :], np.sin(angles)[:, None, :]
        low, high = np.split(x, 2, axis=-1)
        return np.concatenate([low * cosine - high * sine, low * sine + high * cosine], axis=-1)

    def feed_forward(self, own, x):
        if self.family.fused:
            gate, up = np.split(x @ own["mlp.gate_up_proj.weight"].T, 2, axis=1)
        else:
            gate, up = x @ own["mlp.gate_proj.weight"].T, x @ own["mlp.up_proj.weight"].T
        if self.family.gemma:
            active = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
        else:
            active = gate / (1 + np.exp(-gate))
        return (active * up) @ own["mlp.down_proj.weight"].T
