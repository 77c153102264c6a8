"""Tiny T5 models from a seed, in Hugging Face's layout, and what they must answer.

The reference computes in double precision with numpy, token by token and without any cache; it shares nothing with kserved.
Every piece is one character, and U+2581 stands for a blank, as in SentencePiece's vocabularies.
"""

import json
import math
import pathlib
from dataclasses import dataclass

import numpy as np
from language_models import save_file

PAD, END, UNKNOWN = 0, 1, 2
BLANK = "\u2581"
PIECES = ["<pad>", "</s>", "<unk>", BLANK, *(chr(code) for code in range(33, 127))]
HIDDEN, FEED_FORWARD, HEADS, HEAD = 64, 96, 3, 32
BUCKETS, DISTANCE = 32, 128


@dataclass(frozen=True)
class Kind:
    """The first T5, or v1.1 and Flan."""

    layers: tuple
    gated: bool
    tied: bool


KINDS = {"t5": Kind((3, 2), gated=False, tied=True), "flan": Kind((2, 3), gated=True, tied=False)}


def weights_of(kind, seed):
    """Random weights under Hugging Face's names, in single precision."""
    random = np.random.default_rng(seed)

    def matrix(rows, columns, scale=1.0):
        return (random.standard_normal((rows, columns)) / math.sqrt(columns) * scale).astype(np.float32)

    def norm():
        return (1.0 + random.standard_normal(HIDDEN) / 10).astype(np.float32)

    def attention(name):
        # Scores are not divided by the root of a head's width, so queries are small.
        query = 1.5 if kind.tied else 0.5
        wide = {part: matrix(HEADS * HEAD, HIDDEN, query if part == "q" else 1.4) for part in "qkv"} | {"o": matrix(HIDDEN, HEADS * HEAD, 1.4)}
        return {f"{name}.{part}.weight": value for part, value in wide.items()}

    # Where the embeddings are the head too, large ones would only say the last token again.
    weights = {"shared.weight": matrix(len(PIECES), HIDDEN, 1.2 if kind.tied else 6)}
    if not kind.tied:
        weights["lm_head.weight"] = matrix(len(PIECES), HIDDEN, 2)
    for half, layers in zip(("encoder", "decoder"), kind.layers):
        for layer in range(layers):
            own = attention("layer.0.SelfAttention") | {"layer.0.layer_norm.weight": norm()}
            last = 1
            if half == "decoder":
                own |= attention("layer.1.EncDecAttention") | {"layer.1.layer_norm.weight": norm()}
                last = 2
            names = ["wi_0", "wi_1"] if kind.gated else ["wi"]
            own |= {f"layer.{last}.DenseReluDense.{name}.weight": matrix(FEED_FORWARD, HIDDEN, 1.4) for name in names}
            own |= {f"layer.{last}.DenseReluDense.wo.weight": matrix(HIDDEN, FEED_FORWARD, 1.4), f"layer.{last}.layer_norm.weight": norm()}
            if layer == 0:
                own["layer.0.SelfAttention.relative_attention_bias.weight"] = random.standard_normal((BUCKETS, HEADS)).astype(np.float32)
            weights |= {f"{half}.block.{layer}.{name}": value for name, value in own.items()}
        weights[f"{half}.final_layer_norm.weight"] = norm() * np.float32(8 if kind.tied and half == "decoder" else 1)
    return weights


def write(folder, name, seed=1):
    """Writes the model's folder; gives its weights for the reference."""
    kind, folder = KINDS[name], pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = weights_of(kind, seed)
    save_file(weights, folder / "model.safetensors")
    config = {
        "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "d_model": HIDDEN, "d_kv": HEAD, "d_ff": FEED_FORWARD,
        "num_heads": HEADS, "num_layers": kind.layers[0], "num_decoder_layers": kind.layers[1], "relative_attention_num_buckets": BUCKETS,
        "relative_attention_max_distance": DISTANCE, "feed_forward_proj": "gated-gelu" if kind.gated else "relu",
        "tie_word_embeddings": kind.tied, "layer_norm_epsilon": 1e-6, "vocab_size": len(PIECES), "n_positions": 512,
        "decoder_start_token_id": PAD, "eos_token_id": END, "pad_token_id": PAD,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    return weights


def tokenizer():
    """SentencePiece's unigrams as the T5s' own tokenizers have them, with an end behind each text."""
    special = [{"id": at, "content": PIECES[at], "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
               for at in (PAD, END, UNKNOWN)]  # fmt: skip
    metaspace = {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": "always", "split": True}
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    one, other = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    behind = {"type": "TemplateProcessing", "single": [one, end], "pair": [one, end, other, end],
              "special_tokens": {"</s>": {"id": "</s>", "ids": [END], "tokens": ["</s>"]}}}  # fmt: skip
    model = {"type": "Unigram", "unk_id": UNKNOWN, "vocab": [[piece, 0.0 if at < 3 else -2.0] for at, piece in enumerate(PIECES)], "byte_fallback": False}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None, "pre_tokenizer": metaspace,
            "post_processor": behind, "decoder": metaspace, "model": model}  # fmt: skip


def ids(text):
    return [PIECES.index(letter) for letter in BLANK + text.replace(" ", BLANK)] + [END]


def text_of(tokens):
    """As Hugging Face's library decodes: the first word's blank is none."""
    return "".join(PIECES[token] for token in tokens if token > UNKNOWN).replace(BLANK, " ").removeprefix(" ")


class Reference:
    """The same model in double precision."""

    def __init__(self, name, weights):
        self.kind = KINDS[name]
        self.weights = {name: value.astype(np.float64) for name, value in weights.items()}

    def answer(self, prompt, count):
        """The likeliest tokens one after another, and how far each was ahead of the next one."""
        text, tokens, margins = self.encode(prompt), [PAD], []
        for _ in range(count):
            logits = self.logits(text, tokens)
            logits[END] = -np.inf
            second, first = np.sort(logits)[-2:]
            margins.append(first - second)
            tokens.append(int(np.argmax(logits)))
        return tokens[1:], min(margins)

    def encode(self, tokens):
        x = self.weights["shared.weight"][tokens]
        for layer in range(self.kind.layers[0]):
            own = f"encoder.block.{layer}.layer."
            bias = self.bias("encoder", len(x), both=True)
            normed = self.norm(x, own + "0.layer_norm.weight")
            x = x + self.attention(own + "0.SelfAttention", normed, normed, bias)
            x = x + self.feed_forward(own + "1.", x)
        return self.norm(x, "encoder.final_layer_norm.weight")

    def logits(self, text, tokens):
        x = self.weights["shared.weight"][tokens]
        before = np.where(np.triu(np.ones((len(x), len(x)), bool), 1), -np.inf, 0.0)
        for layer in range(self.kind.layers[1]):
            own = f"decoder.block.{layer}.layer."
            normed = self.norm(x, own + "0.layer_norm.weight")
            x = x + self.attention(own + "0.SelfAttention", normed, normed, self.bias("decoder", len(x), both=False) + before)
            x = x + self.attention(own + "1.EncDecAttention", self.norm(x, own + "1.layer_norm.weight"), text, 0.0)
            x = x + self.feed_forward(own + "2.", x)
        last = self.norm(x, "decoder.final_layer_norm.weight")[-1]
        if self.kind.tied:
            return self.weights["shared.weight"] @ (last * HIDDEN**-0.5)
        return self.weights["lm_head.weight"] @ last

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * self.weights[name]

    def attention(self, name, x, text, bias):
        heads = lambda rows: rows.reshape(len(rows), HEADS, HEAD)
        q, k, v = heads(x @ self.weights[f"{name}.q.weight"].T), heads(text @ self.weights[f"{name}.k.weight"].T), heads(text @ self.weights[f"{name}.v.weight"].T)
        scores = np.einsum("qhd,khd->hqk", q, k) + bias
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        return np.einsum("hqk,khd->qhd", shares, v).reshape(len(x), -1) @ self.weights[f"{name}.o.weight"].T

    def bias(self, half, count, both):
        stored = self.weights[f"{half}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        ahead = np.arange(count)[None, :] - np.arange(count)[:, None]
        return stored[bucket(ahead, both)].transpose(2, 0, 1)

    def feed_forward(self, own, x):
        x = self.norm(x, own + "layer_norm.weight")
        name = own + "DenseReluDense."
        if self.kind.gated:
            gate = x @ self.weights[name + "wi_0.weight"].T
            active = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
            active = active * (x @ self.weights[name + "wi_1.weight"].T)
        else:
            active = np.maximum(x @ self.weights[name + "wi.weight"].T, 0)
        return active @ self.weights[name + "wo.weight"].T


def bucket(ahead, both):
    """Near distances each for itself, far ones in growing groups."""
    count = BUCKETS // 2 if both else BUCKETS
    first = np.where(ahead > 0, count, 0) if both else 0
    distance = np.abs(ahead) if both else np.maximum(-ahead, 0)
    exact = count // 2
    far = exact + (np.log(np.maximum(distance, 1) / exact) / math.log(DISTANCE / exact) * (count - exact) + 1e-9).astype(int)
    return first + np.where(distance < exact, distance, np.minimum(far, count - 1))
