"""The same GGUF file with its matrices in another type, to measure kernels of types for which no small model is published.

    python requantise.py FROM.gguf Q4_0 TO.gguf

Types are those that the `gguf` package can write: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, F16, BF16, F32. Values are rounded a second time, so answers are
worse than those of a file that was made from the original weights; speed and memory are the same.
"""

import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize, quantize


def main():
    source, name, target = sys.argv[1:]
    kind, reader = GGMLQuantizationType[name], GGUFReader(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        if tensor.tensor_type == GGMLQuantizationType.F32:
            writer.add_tensor(tensor.name, tensor.data)
            continue
        numbers = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, quantize(numbers, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
