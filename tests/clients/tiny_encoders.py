"""Tiny seeded encoders in Hugging Face's layout, and what they must answer: a reference in float64, written from the papers.

Run: python tests/clients/tiny_encoders.py FOLDER   makes one folder for each family and task below.

The reference looks at one text at a time and at one head at a time, in plain loops where that is clearest; it shares nothing
with the code under test but the tokenizer.
"""

import json
import math
import pathlib
import struct
import sys

import numpy as np
import tokenizers

WORDS = """the a cat dog sits outside in garden man plays guitar woman reads book new york is large city paris france capital of
great bad movie was i loved hated it good morning world hello how are you run ##s ##ing ##ed , . ! ?""".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = SPECIAL + WORDS
WIDTH, HEADS, INNER, LAYERS, POSITIONS = 32, 4, 48, 3, 64

FAMILIES = {
    "bert": ("Bert", {"type_vocab_size": 2, "layer_norm_eps": 1e-12}),
    "distilbert": ("DistilBert", {}),
    "roberta": ("Roberta", {"type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1}),
    "xlm-roberta": ("XLMRoberta", {"type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1}),
    "modernbert": (
        "ModernBert",
        {"local_attention": 8, "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0, "norm_eps": 1e-5},
    ),
    "deberta-v2": (
        "DebertaV2",
        {
            "relative_attention": True,
            "position_buckets": 8,
            "max_relative_positions": -1,
            "pos_att_type": ["p2c", "c2p"],
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "position_biased_input": False,
            "type_vocab_size": 0,
            "layer_norm_eps": 1e-7,
            "pooler_hidden_act": "gelu",
        },
    ),
}
TASKS = {
    "text_embedding": "Model",
    "sequence_classification": "ForSequenceClassification",
    "token_classification": "ForTokenClassification",
    "fill_mask": "ForMaskedLM",
    "rerank": "ForSequenceClassification",
}


def labels_of(task):
    return {"sequence_classification": 3, "token_classification": 5, "rerank": 1}.get(task, 2)


# ---- files ----------------------------------------------------------------------------------------------------------------


def make(folder, family, task, seed=7, dtype="F32"):
    """Writes a model's folder and gives its weights in float64, as the files hold them."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(family, task), indent=1))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    weights = {name: rounded(value, dtype) for name, value in random_weights(family, task, seed).items()}
    write_safetensors(folder / "model.safetensors", weights, dtype)
    return weights


def config(family, task):
    name, extra = FAMILIES[family]
    sizes = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "intermediate_size": INNER, "num_hidden_layers": LAYERS}
    if family == "distilbert":
        sizes = {"dim": WIDTH, "n_heads": HEADS, "hidden_dim": INNER, "n_layers": LAYERS, "activation": "gelu"}
    labels = {str(at): f"LABEL_{at}" for at in range(labels_of(task))}
    common = {"vocab_size": len(VOCABULARY), "max_position_embeddings": POSITIONS, "hidden_act": "gelu", "id2label": labels}
    return {"architectures": [name + TASKS[task]], "model_type": family, **common, **sizes, **extra}


def tokenizer_json():
    ids = {word: at for at, word in enumerate(VOCABULARY)}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    piece = lambda name, kind: {"SpecialToken": {"id": name, "type_id": kind}}
    text = lambda name, kind: {"Sequence": {"id": name, "type_id": kind}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": ids[word], "content": word, **plain} for word in SPECIAL],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [piece("[CLS]", 0), text("A", 0), piece("[SEP]", 0)],
            "pair": [piece("[CLS]", 0), text("A", 0), piece("[SEP]", 0), text("B", 1), piece("[SEP]", 1)],
            "special_tokens": {word: {"id": word, "ids": [ids[word]], "tokens": [word]} for word in ["[CLS]", "[SEP]"]},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": ids},
    }


def rounded(value, dtype):
    """The value as the file's type holds it."""
    if dtype == "F16":
        return value.astype(np.float16).astype(np.float64)
    single = value.astype(np.float32)
    if dtype == "BF16":
        bits = single.view(np.uint32)
        single = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return single.astype(np.float64)


def write_safetensors(path, tensors, dtype="F32"):
    header, blobs, at = {}, [], 0
    for name, value in tensors.items():
        single = value.astype(np.float32)
        blob = {
            "F32": lambda: single.tobytes(),
            "F16": lambda: value.astype(np.float16).tobytes(),
            "BF16": lambda: (single.view(np.uint32) >> 16).astype(np.uint16).tobytes(),
        }[dtype]()
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def random_weights(family, task, seed):
    """Every tensor that the architecture has, under Hugging Face's names."""
    generator = np.random.default_rng(seed)
    found = {}

    def matrix(name, to, size, bias=True):
        found[f"{name}.weight"] = generator.normal(0, 0.25, (to, size))
        if bias:
            found[f"{name}.bias"] = generator.normal(0, 0.1, to)

    def table(name, rows):
        found[f"{name}.weight"] = generator.normal(0, 0.5, (rows, WIDTH))

    def norm(name, bias=True):
        found[f"{name}.weight"] = generator.normal(1, 0.1, WIDTH)
        if bias:
            found[f"{name}.bias"] = generator.normal(0, 0.1, WIDTH)

    bare = task == "text_embedding"
    settings = FAMILIES[family][1]
    trunk = {"bert": "bert", "distilbert": "distilbert", "modernbert": "model", "deberta-v2": "deberta"}.get(family, "roberta")
    prefix = "" if bare else f"{trunk}."
    if family == "modernbert":
        table(f"{prefix}embeddings.tok_embeddings", len(VOCABULARY))
        norm(f"{prefix}embeddings.norm", bias=False)
        for at in range(LAYERS):
            place = f"{prefix}layers.{at}"
            if at:
                norm(f"{place}.attn_norm", bias=False)
            matrix(f"{place}.attn.Wqkv", 3 * WIDTH, WIDTH, bias=False)
            matrix(f"{place}.attn.Wo", WIDTH, WIDTH, bias=False)
            norm(f"{place}.mlp_norm", bias=False)
            matrix(f"{place}.mlp.Wi", 2 * INNER, WIDTH, bias=False)
            matrix(f"{place}.mlp.Wo", WIDTH, INNER, bias=False)
        norm(f"{prefix}final_norm", bias=False)
        if not bare:
            matrix("head.dense", WIDTH, WIDTH, bias=False)
            norm("head.norm", bias=False)
            if task == "fill_mask":
                found["decoder.bias"] = generator.normal(0, 0.1, len(VOCABULARY))
            else:
                matrix("classifier", labels_of(task), WIDTH)
        return found

    table(f"{prefix}embeddings.word_embeddings", len(VOCABULARY))
    if settings.get("position_biased_input", True):
        table(f"{prefix}embeddings.position_embeddings", POSITIONS)
    if settings.get("type_vocab_size", 0):
        table(f"{prefix}embeddings.token_type_embeddings", settings["type_vocab_size"])
    norm(f"{prefix}embeddings.LayerNorm")
    if family == "deberta-v2":
        table(f"{prefix}encoder.rel_embeddings", 2 * settings["position_buckets"])
        norm(f"{prefix}encoder.LayerNorm")
    names = NAMES.get(family, NAMES["bert"])
    for at in range(LAYERS):
        place = f"{prefix}{names['layer']}.{at}"
        for part in [*names["qkv"], names["output"]]:
            matrix(f"{place}.{part}", WIDTH, WIDTH)
        norm(f"{place}.{names['attention_norm']}")
        matrix(f"{place}.{names['up']}", INNER, WIDTH)
        matrix(f"{place}.{names['down']}", WIDTH, INNER)
        norm(f"{place}.{names['output_norm']}")
    for name, kind in HEADS_OF[family].get("words" if task == "fill_mask" else "tokens" if task == "token_classification" else "texts", []):
        if bare:
            break
        if kind == "square":
            matrix(name, WIDTH, WIDTH)
        elif kind == "norm":
            norm(name)
        elif kind == "labels":
            matrix(name, labels_of(task), WIDTH)
        else:
            found[f"{name}"] = generator.normal(0, 0.1, len(VOCABULARY))
    return found


NAMES = {
    "bert": {
        "layer": "encoder.layer",
        "qkv": ["attention.self.query", "attention.self.key", "attention.self.value"],
        "output": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "output_norm": "output.LayerNorm",
    },
    "distilbert": {
        "layer": "transformer.layer",
        "qkv": ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
        "output": "attention.out_lin",
        "attention_norm": "sa_layer_norm",
        "up": "ffn.lin1",
        "down": "ffn.lin2",
        "output_norm": "output_layer_norm",
    },
}
NAMES["deberta-v2"] = {**NAMES["bert"], "qkv": ["attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"]}

ROBERTA_HEADS = {
    "texts": [("classifier.dense", "square"), ("classifier.out_proj", "labels")],
    "tokens": [("classifier", "labels")],
    "words": [("lm_head.dense", "square"), ("lm_head.layer_norm", "norm"), ("lm_head.bias", "words")],
}
PREDICTIONS = [("cls.predictions.transform.dense", "square"), ("cls.predictions.transform.LayerNorm", "norm"), ("cls.predictions.bias", "words")]
HEADS_OF = {
    "bert": {"texts": [("bert.pooler.dense", "square"), ("classifier", "labels")], "tokens": [("classifier", "labels")], "words": PREDICTIONS},
    "distilbert": {
        "texts": [("pre_classifier", "square"), ("classifier", "labels")],
        "tokens": [("classifier", "labels")],
        "words": [("vocab_transform", "square"), ("vocab_layer_norm", "norm"), ("vocab_projector.bias", "words")],
    },
    "roberta": ROBERTA_HEADS,
    "xlm-roberta": ROBERTA_HEADS,
    "deberta-v2": {
        "texts": [("pooler.dense", "square"), ("classifier", "labels")],
        "tokens": [("classifier", "labels")],
        "words": PREDICTIONS,
    },
}


# ---- reference --------------------------------------------------------------------------------------------------------------


class Reference:
    """What a model must answer, in float64."""

    def __init__(self, family, task, weights):
        self.family, self.task, self.weights = family, task, weights
        self.settings = FAMILIES[family][1]
        self.tokenizer = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json()))
        self.prefix = next(name.split("embeddings.")[0] for name in weights if "embeddings." in name)

    def tokens(self, text, pair=None):
        found = self.tokenizer.encode(text, pair) if pair is not None else self.tokenizer.encode(text)
        return np.array(found.ids), np.array(found.type_ids)

    def answer(self, text, pair=None):
        """Embedding `[width]` at length 1; logits `[labels]`, `[tokens, labels]`, or `[masks, words]`."""
        ids, types = self.tokens(text, pair)
        hidden = self.hidden(ids, types)
        if self.task == "text_embedding":
            mean = hidden.mean(axis=0)
            return mean / np.linalg.norm(mean)
        return self.head(hidden, ids)

    def linear(self, x, name):
        product = x @ self.weights[f"{name}.weight"].T
        return product + self.weights[f"{name}.bias"] if f"{name}.bias" in self.weights else product

    def norm(self, x, name, eps):
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps) * self.weights[f"{name}.weight"]
        return scaled + self.weights.get(f"{name}.bias", 0.0)

    def hidden(self, ids, types):
        return self.modern(ids) if self.family == "modernbert" else self.classic(ids, types)

    def classic(self, ids, types):
        prefix, eps = self.prefix, self.settings.get("layer_norm_eps", 1e-12)
        table = lambda name: self.weights.get(f"{prefix}embeddings.{name}.weight")
        x = table("word_embeddings")[ids]
        if (positions := table("position_embeddings")) is not None:
            first = 2 if "roberta" in self.family else 0
            x = x + positions[np.arange(len(ids)) + first]
        if (kinds := table("token_type_embeddings")) is not None:
            x = x + kinds[types if len(kinds) > 1 else np.zeros_like(types)]
        x = self.norm(x, f"{prefix}embeddings.LayerNorm", eps)
        names = NAMES.get(self.family, NAMES["bert"])
        for at in range(LAYERS):
            place = f"{prefix}{names['layer']}.{at}"
            query, key, value = [f"{place}.{part}" for part in names["qkv"]]
            q, k, v = self.linear(x, query), self.linear(x, key), self.linear(x, value)
            far = self.distances(query, key) if self.family == "deberta-v2" else None
            seen = attend(q, k, v, far, self.settings.get("position_buckets", 0))
            x = self.norm(x + self.linear(seen, f"{place}.{names['output']}"), f"{place}.{names['attention_norm']}", eps)
            inner = gelu(self.linear(x, f"{place}.{names['up']}"))
            x = self.norm(x + self.linear(inner, f"{place}.{names['down']}"), f"{place}.{names['output_norm']}", eps)
        return x

    def distances(self, query, key):
        """The table of distances through a layer's own query and key."""
        table = self.weights[f"{self.prefix}encoder.rel_embeddings.weight"]
        table = self.norm(table, f"{self.prefix}encoder.LayerNorm", self.settings["layer_norm_eps"])
        return self.linear(table, query), self.linear(table, key)

    def modern(self, ids):
        prefix, eps, size = self.prefix, self.settings["norm_eps"], WIDTH // HEADS
        x = self.norm(self.weights[f"{prefix}embeddings.tok_embeddings.weight"][ids], f"{prefix}embeddings.norm", eps)
        for at in range(LAYERS):
            place, wide = f"{prefix}layers.{at}", at % self.settings["global_attn_every_n_layers"] == 0
            y = self.norm(x, f"{place}.attn_norm", eps) if at else x
            q, k, v = np.split(self.linear(y, f"{place}.attn.Wqkv"), 3, axis=1)
            theta = self.settings["global_rope_theta" if wide else "local_rope_theta"]
            reach = None if wide else self.settings["local_attention"] // 2
            seen = np.zeros_like(v)
            for head in range(HEADS):
                part = slice(head * size, (head + 1) * size)
                scores = turned(q[:, part], theta) @ turned(k[:, part], theta).T / math.sqrt(size)
                if reach is not None:
                    apart = np.abs(np.subtract.outer(np.arange(len(ids)), np.arange(len(ids))))
                    scores = np.where(apart <= reach, scores, -np.inf)
                seen[:, part] = softmax(scores) @ v[:, part]
            x = x + self.linear(seen, f"{place}.attn.Wo")
            gate, up = np.split(self.linear(self.norm(x, f"{place}.mlp_norm", eps), f"{place}.mlp.Wi"), 2, axis=1)
            x = x + self.linear(gelu(gate) * up, f"{place}.mlp.Wo")
        return self.norm(x, f"{prefix}final_norm", eps)

    def head(self, hidden, ids):
        marks = np.flatnonzero(ids == VOCABULARY.index("[MASK]"))
        x = {"fill_mask": hidden[marks], "token_classification": hidden}.get(self.task, hidden[0])
        words = next(value for name, value in self.weights.items() if name.endswith(("word_embeddings.weight", "tok_embeddings.weight")))
        if self.family == "modernbert":
            x = self.norm(gelu(self.linear(x, "head.dense")), "head.norm", self.settings["norm_eps"])
            return x @ words.T + self.weights["decoder.bias"] if self.task == "fill_mask" else self.linear(x, "classifier")
        if self.task == "token_classification":
            return self.linear(x, "classifier")
        if self.task == "fill_mask":
            dense, norm, bias = [name for name, _ in HEADS_OF[self.family]["words"]]
            x = self.norm(gelu(self.linear(x, dense)), norm, self.settings.get("layer_norm_eps", 1e-12))
            return x @ words.T + self.weights[bias]
        dense, out = [name for name, _ in HEADS_OF[self.family]["texts"]]
        between = {"distilbert": lambda y: np.maximum(y, 0), "deberta-v2": gelu}.get(self.family, np.tanh)
        return self.linear(between(self.linear(x, dense)), out)


def attend(q, k, v, far, buckets):
    size, seen = WIDTH // HEADS, np.zeros_like(v)
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        scores = q[:, part] @ k[:, part].T
        if far is not None:
            queries, keys = far[0][:, part], far[1][:, part]
            for i in range(len(q)):
                for j in range(len(q)):
                    row = min(max(bucket(i - j, buckets) + buckets, 0), 2 * buckets - 1)
                    scores[i, j] += q[i, part] @ keys[row] + k[j, part] @ queries[row]
        looks = 1 if far is None else 3
        seen[:, part] = softmax(scores / math.sqrt(looks * size)) @ v[:, part]
    return seen


def bucket(distance, buckets):
    """DeBERTa v2: near distances as they are, far ones by their logarithm."""
    middle = buckets // 2
    if abs(distance) <= middle:
        return distance
    far = math.ceil(math.log(abs(distance) / middle) / math.log((POSITIONS - 1) / middle) * (middle - 1)) + middle
    return int(math.copysign(far, distance))


def turned(x, theta):
    """Rotary positions: each pair of numbers, half a head apart, turned by its place."""
    half = x.shape[1] // 2
    angles = np.outer(np.arange(len(x)), theta ** (-np.arange(half) / half))
    a, b = x[:, :half], x[:, half:]
    return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], axis=1)


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def softmax(x):
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


if __name__ == "__main__":
    for family in FAMILIES:
        for task in TASKS:
            make(pathlib.Path(sys.argv[1]) / f"{family}-{task}", family, task)
