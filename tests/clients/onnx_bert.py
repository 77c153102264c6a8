"""BERT's trunk as an ONNX graph out of its weights: what an export in a Hugging Face folder holds.

Run: python tests/clients/onnx_bert.py MODEL_FOLDER OUT.onnx
"""

import json
import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def read_safetensors(path):
    """The F32 tensors of a file by name."""
    data = pathlib.Path(path).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    found = {}
    for name, info in header.items():
        if name != "__metadata__" and info["dtype"] == "F32":
            count = int(np.prod(info["shape"], dtype=int))
            found[name] = np.frombuffer(data, np.float32, count, 8 + length + info["data_offsets"][0]).reshape(info["shape"])
    return found


class Graph:
    def __init__(self):
        self.nodes, self.constants, self.count = [], {}, 0

    def constant(self, value):
        name = f"c{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def add(self, kind, *inputs, name=None, **attributes):
        self.count += 1
        output = name or f"t{self.count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"n{self.count}", **attributes))
        return output


def export(weights, config, path):
    """Writes the trunk: `input_ids`, `attention_mask`, `token_type_ids` in, `last_hidden_state` out."""
    graph, heads, width = Graph(), config["num_attention_heads"], config["hidden_size"]
    size, epsilon = width // heads, config["layer_norm_eps"]
    constant, add = graph.constant, graph.add
    linear = lambda x, name: add("Add", add("MatMul", x, constant(weights[f"{name}.weight"].T)), constant(weights[f"{name}.bias"]))
    norm = lambda x, part, **out: add(
        "LayerNormalization", x, constant(weights[f"{part}.weight"]), constant(weights[f"{part}.bias"]), epsilon=epsilon, **out
    )
    number = lambda value: constant(np.array(value, np.float32))
    shape = lambda *dims: constant(np.array(dims, np.int64))
    look_up = lambda name, ids: add("Gather", constant(weights[f"embeddings.{name}.weight"]), ids)

    length = add("Gather", add("Shape", "input_ids"), shape(1))
    places = add("Slice", constant(np.arange(config["max_position_embeddings"], dtype=np.int64)), shape(0), length)
    x = add("Add", look_up("word_embeddings", "input_ids"), look_up("token_type_embeddings", "token_type_ids"))
    x = norm(add("Add", x, look_up("position_embeddings", places)), "embeddings.LayerNorm")
    mask = add("Unsqueeze", add("Cast", "attention_mask", to=TensorProto.FLOAT), shape(1, 2))
    mask = add("Mul", add("Sub", number(1), mask), number(-3.4e38))
    split = lambda y, order: add("Transpose", add("Reshape", y, shape(0, 0, heads, size)), perm=order)
    for at in range(config["num_hidden_layers"]):
        place = f"encoder.layer.{at}"
        q, k, v = [linear(x, f"{place}.attention.self.{part}") for part in ("query", "key", "value")]
        scores = add("MatMul", split(q, [0, 2, 1, 3]), split(k, [0, 2, 3, 1]))
        scores = add("Add", add("Div", scores, number(size**0.5)), mask)
        seen = add("MatMul", add("Softmax", scores, axis=-1), split(v, [0, 2, 1, 3]))
        seen = add("Reshape", add("Transpose", seen, perm=[0, 2, 1, 3]), shape(0, 0, width))
        x = norm(add("Add", linear(seen, f"{place}.attention.output.dense"), x), f"{place}.attention.output.LayerNorm")
        inner = linear(x, f"{place}.intermediate.dense")
        bent = add("Add", add("Erf", add("Div", inner, number(2**0.5))), number(1))
        inner = add("Mul", add("Mul", inner, bent), number(0.5))
        last = {"name": "last_hidden_state"} if at == config["num_hidden_layers"] - 1 else {}
        x = norm(add("Add", linear(inner, f"{place}.output.dense"), x), f"{place}.output.LayerNorm", **last)
    ids = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "s"]) for name in ("input_ids", "attention_mask", "token_type_ids")]
    out = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["b", "s", width])]
    made = helper.make_graph(graph.nodes, "bert", ids, out, list(graph.constants.values()))
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(path).write_bytes(model.SerializeToString())


def export_folder(folder, path):
    folder = pathlib.Path(folder)
    export(read_safetensors(folder / "model.safetensors"), json.loads((folder / "config.json").read_text()), path)


if __name__ == "__main__":
    export_folder(sys.argv[1], sys.argv[2])
