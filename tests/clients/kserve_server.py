"""The KServe Python SDK's own model server with ONNX Runtime behind it: what kserved's answers are compared with.

Run: python tests/clients/kserve_server.py --http_port N --grpc_port N NAME=MODEL.onnx ...
"""

import argparse
import uuid

import kserve
import numpy as np
import onnxruntime
from kserve import InferOutput, InferResponse, ModelServer, model_server
from kserve.errors import InvalidInput

DATATYPES = {
    "tensor(bool)": ("BOOL", np.bool_),
    "tensor(uint8)": ("UINT8", np.uint8),
    "tensor(uint16)": ("UINT16", np.uint16),
    "tensor(uint32)": ("UINT32", np.uint32),
    "tensor(uint64)": ("UINT64", np.uint64),
    "tensor(int8)": ("INT8", np.int8),
    "tensor(int16)": ("INT16", np.int16),
    "tensor(int32)": ("INT32", np.int32),
    "tensor(int64)": ("INT64", np.int64),
    "tensor(float16)": ("FP16", np.float16),
    "tensor(float)": ("FP32", np.float32),
    "tensor(double)": ("FP64", np.float64),
    "tensor(string)": ("BYTES", np.object_),
}


class Onnx(kserve.Model):
    """One ONNX model behind every protocol the SDK serves."""

    def __init__(self, name, path):
        super().__init__(name)
        self.path = path
        self.load()

    def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
        self.outputs = self.session.get_outputs()
        self.ready = True
        return True

    async def get_input_types(self):
        return [described(value) for value in self.session.get_inputs()]

    async def get_output_types(self):
        return [described(value) for value in self.outputs]

    async def predict(self, payload, headers=None, response_headers=None):
        return self.predict_v1(payload) if isinstance(payload, dict) else self.predict_v2(payload)

    def predict_v1(self, payload):
        """One input takes the rows as they are; one output gives rows, several give an object a row."""
        (only,) = self.session.get_inputs()
        rows = np.asarray(payload["inputs"] if "inputs" in payload else payload["instances"], DATATYPES[only.type][1])
        results = self.session.run(None, {only.name: rows})
        names = [output.name for output in self.outputs]
        if len(names) == 1:
            return {"predictions": results[0].tolist()}
        return {"predictions": [dict(zip(names, row)) for row in zip(*(result.tolist() for result in results))]}

    def predict_v2(self, payload):
        try:
            results = self.session.run(None, {tensor.name: words(tensor.as_numpy()) for tensor in payload.inputs})
        except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument as error:
            raise InvalidInput(str(error)) from error
        outputs = []
        for output, result in zip(self.outputs, results):
            outputs.append(InferOutput(output.name, list(result.shape), DATATYPES[output.type][0]))
            outputs[-1].set_data_from_numpy(result, binary_data=payload.use_binary_outputs)
        return InferResponse(
            payload.id or str(uuid.uuid4()),
            self.name,
            outputs,
            from_grpc=payload.from_grpc,
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )


def described(value):
    shape = [size if isinstance(size, int) else -1 for size in value.shape]
    return {"name": value.name, "datatype": DATATYPES[value.type][0], "shape": shape}


def words(array):
    """ONNX Runtime wants text where the protocol gives bytes."""
    if array.dtype != np.object_:
        return array
    text = [element.decode() if isinstance(element, bytes) else element for element in array.ravel()]
    return np.array(text, dtype=np.object_).reshape(array.shape)


def main():
    parser = argparse.ArgumentParser(parents=[model_server.parser], conflict_handler="resolve")
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL.onnx")
    arguments = parser.parse_args()
    ModelServer().start([Onnx(*model.split("=", 1)) for model in arguments.models])


if __name__ == "__main__":
    main()
