"""The two models that serving is measured with, made from a seed: a tiny MLP and a CNN of ResNet-18's size and shape."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SEED = 7
STAGES = [(64, 1), (128, 2), (256, 2), (512, 2)]


def make(folder):
    """Writes `mlp.onnx` and `resnet18.onnx` into `folder`; gives a request for each, by model and input name."""
    rng = np.random.default_rng(SEED)
    (folder / "mlp.onnx").write_bytes(mlp(rng))
    (folder / "resnet18.onnx").write_bytes(Resnet(rng).model())
    return {
        "mlp": {"input": request(rng, (1, 4))},
        "resnet18": {"input": request(rng, (1, 3, 224, 224))},
    }


def request(rng, shape):
    """Four digits behind the point, as images and measurements have once they are scaled."""
    return rng.normal(size=shape).round(4).astype(np.float32)


def constant(name, values):
    return numpy_helper.from_array(values.astype(np.float32), name)


def bytes_of(name, nodes, constants, shape_in, shape_out):
    first = helper.make_tensor_value_info("input", TensorProto.FLOAT, shape_in)
    last = helper.make_tensor_value_info("output", TensorProto.FLOAT, shape_out)
    graph = helper.make_graph(nodes, name, [first], [last], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def mlp(rng):
    """4 numbers, 16 hidden, 3 classes."""
    constants = [
        constant("w1", rng.normal(0, 0.5, (4, 16))),
        constant("b1", rng.normal(0, 0.1, 16)),
        constant("w2", rng.normal(0, 0.5, (16, 3))),
        constant("b2", rng.normal(0, 0.1, 3)),
    ]
    nodes = [
        helper.make_node("Gemm", ["input", "w1", "b1"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "w2", "b2"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["output"], axis=1),
    ]
    return bytes_of("mlp", nodes, constants, ["batch", 4], ["batch", 3])


class Resnet:
    """ResNet-18 with random weights; batch norms are folded into the convolutions, as exporters do."""

    def __init__(self, rng):
        self.rng, self.nodes, self.constants = rng, [], []

    def model(self):
        x = self.relu(self.convolve("input", 3, 64, 7, 2))
        x = self.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        channels = 64
        for width, stride in STAGES:
            x = self.block(x, channels, width, stride)
            x = self.block(x, width, width, 1)
            channels = width
        x = self.node("Flatten", [self.node("GlobalAveragePool", [x])])
        self.constants += [constant("fw", self.rng.normal(0, 0.04, (512, 1000))), constant("fb", np.zeros(1000))]
        self.nodes.append(helper.make_node("Gemm", [x, "fw", "fb"], ["output"]))
        return bytes_of("resnet18", self.nodes, self.constants, ["batch", 3, 224, 224], ["batch", 1000])

    def block(self, x, channels, width, stride):
        """Two convolutions beside a short cut."""
        inner = self.relu(self.convolve(x, channels, width, 3, stride))
        long = self.convolve(inner, width, width, 3, 1)
        same = stride == 1 and channels == width
        short = x if same else self.convolve(x, channels, width, 1, stride)
        return self.relu(self.node("Add", [long, short]))

    def convolve(self, x, channels, width, size, stride):
        index, spread = len(self.constants), (2.0 / (channels * size * size)) ** 0.5
        weights = constant(f"w{index}", self.rng.normal(0, spread, (width, channels, size, size)))
        bias = constant(f"b{index}", self.rng.normal(0, 0.01, width))
        self.constants += [weights, bias]
        pads = [size // 2] * 4
        return self.node("Conv", [x, weights.name, bias.name], kernel_shape=[size, size], strides=[stride] * 2, pads=pads)

    def relu(self, x):
        return self.node("Relu", [x])

    def node(self, kind, inputs, **attributes):
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name
