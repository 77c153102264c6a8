"""The test cases of the ONNX package: which of them the protocol can carry and ONNX Runtime answers right."""

import json
import pathlib
from dataclasses import dataclass

import numpy as np
import oip
import onnx
import onnxruntime
from onnx import numpy_helper

DATA = pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data"
KINDS = ["node", "pytorch-converted", "pytorch-operator", "simple"]
# The datatypes of the protocol that numpy has a type for, as ONNX Runtime prints them.
CARRIED = {
    f"tensor({name})"
    for name in "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 float double string".split()
}


@dataclass
class Case:
    """One model with one request, and the answer that ONNX Runtime gives in process."""

    name: str
    model: pathlib.Path
    inputs: dict
    outputs: dict

    def fits(self, wire):
        """Whether a wire can carry it: JSON has no NaN and no infinities, FP16 has neither a JSON nor a typed form."""
        arrays = [*self.inputs.values(), *self.outputs.values()]
        if any(array.dtype == np.float16 for array in map(np.asarray, arrays)):
            return wire in ("binary", "grpc")
        return wire != "json" or all(has_json_form(array) for array in arrays)


    def other_answers(self):
        """ONNX Runtime's answers with each input at other places in memory.

        Some of its kernels add numbers in an order that depends on where a tensor starts, so the last bit does too.
        """
        session = session_of(self.model)
        for offset in range(4, 64, 4):
            moved = {name: at_offset(np.asarray(array), offset) for name, array in self.inputs.items()}
            yield dict(zip(self.outputs, session.run(list(self.outputs), moved)))


def at_offset(array, offset):
    """A copy of an array that starts `offset` bytes after a multiple of 64."""
    if array.dtype == np.object_:
        return array
    room = np.empty(array.nbytes + 128, np.uint8)
    start = -room.ctypes.data % 64 + offset
    moved = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


def has_json_form(array):
    array = oip.as_protocol(array)
    if array.dtype == np.object_:
        return all(is_text(element) for element in array.ravel())
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def is_text(element):
    try:
        element.decode()
    except UnicodeDecodeError:
        return False
    return True


def passing():
    """Every case that ONNX Runtime itself answers right and whose tensors the protocol has names for."""
    folders = sorted(folder for kind in KINDS for folder in (DATA / kind).iterdir() if (folder / "model.onnx").is_file())
    return [case for folder in folders if (case := read(folder)) is not None]


def session_of(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def read(folder):
    try:
        session = session_of(folder / "model.onnx")
    except Exception:
        return None
    if any(value.type not in CARRIED for value in [*session.get_inputs(), *session.get_outputs()]):
        return None
    names = [value.name for value in session.get_outputs()]
    data = folder / "test_data_set_0"
    inputs = dict(zip((value.name for value in session.get_inputs()), tensors(data, "input")))
    try:
        outputs = dict(zip(names, session.run(names, inputs)))
    except Exception:
        return None
    return Case(name_of(folder), folder / "model.onnx", inputs, outputs) if is_right(folder, data, outputs) else None


def tensors(data, what):
    count = len(list(data.glob(f"{what}_*.pb")))
    return [numpy_helper.to_array(onnx.load_tensor(data / f"{what}_{index}.pb")) for index in range(count)]


def is_right(folder, data, outputs):
    """Whether the outputs are the expected ones within the case's own tolerance."""
    described = folder / "data.json"
    tolerance = json.loads(described.read_text()) if described.is_file() else {}
    expected = tensors(data, "output")
    return len(expected) == len(outputs) and all(
        is_near(wanted, found, tolerance.get("rtol", 1e-3), tolerance.get("atol", 1e-7))
        for wanted, found in zip(expected, outputs.values())
    )


def is_near(wanted, found, rtol, atol):
    if wanted.dtype != found.dtype and wanted.dtype.kind not in "USO" or wanted.shape != found.shape:
        return False
    if wanted.dtype.kind in "USO":
        return list(map(oip.octets, wanted.ravel())) == list(map(oip.octets, found.ravel()))
    return np.allclose(wanted, found, rtol=rtol, atol=atol, equal_nan=True)


def name_of(folder):
    """A name KServe allows: `test_abs` of `node` becomes `node-abs`."""
    name = "".join(letter if letter.isalnum() else "-" for letter in folder.name.lower().removeprefix("test_"))
    return f"{folder.parent.name}-{name}".strip("-")
