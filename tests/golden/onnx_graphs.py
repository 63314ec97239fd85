"""Exports the graphs of the bundled model to ONNX without their weights: onnx_graphs.py [OUT].

    OUT/PART.onnx.gz  for text_encoder, unet, vae_decoder, vae_encoder

The inputs and outputs are those of onnx_export.py. Each weight is a reference into a file `model.onnx_data` beside the graph,
which is to be a copy of the part's safetensors file: both formats hold plain little-endian numbers, so that an offset and a
length are all it takes. The committed graphs are some 100 KB in place of 60 MB, and tests put them together with the weights
that are there anyway. Needs `onnx` beside requirements.txt.
"""

import gzip
import json
import struct
import sys
import tempfile
from pathlib import Path

import numpy
import onnx
import onnx_export
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).parent.parent.parent
MODEL = ROOT / "models" / "emoji-sd"
OUT = ROOT / "tests" / "fixtures" / "onnx" / "emoji-sd"
# A part's graph, and the file with its weights.
PARTS = {
    "text_encoder": "text_encoder/model.safetensors",
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae_decoder": "vae/diffusion_pytorch_model.safetensors",
    "vae_encoder": "vae/diffusion_pytorch_model.safetensors",
}


def tensors(path):
    """Name, first byte in the file, length and values of each half-precision tensor of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__" and entry["dtype"] == "F16":
            first, end = (8 + length + offset for offset in entry["data_offsets"])
            yield name, first, end - first, numpy.frombuffer(data[first:end], "<f2").reshape(entry["shape"])


def without_weights(model, weights):
    """Turns initializers into half-precision references with a cast behind each."""
    known = {}
    for name, first, length, values in tensors(weights):
        known.setdefault((values.shape, values.tobytes()), (first, length))
    kept, casts = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        place = known.get((values.shape, values.astype("<f2").tobytes())) if values.dtype == numpy.float32 else None
        if place is None:
            assert values.size < 4096, f"{tensor.name} {values.shape} is none of the model's weights"
            kept.append(tensor)
            continue
        half = TensorProto(name=f"{tensor.name}/half", data_type=TensorProto.FLOAT16, dims=values.shape)
        half.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "model.onnx_data"), ("offset", place[0]), ("length", place[1])):
            half.external_data.add(key=key, value=str(value))
        kept.append(half)
        casts.append(helper.make_node("Cast", [half.name], [tensor.name], to=TensorProto.FLOAT))
    nodes = casts + list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)
    for node in model.graph.node:
        node.doc_string = ""
    return model


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        onnx_export.main(MODEL, Path(folder), fold=False)
        for part, weights in PARTS.items():
            model = without_weights(onnx.load(Path(folder) / part / "model.onnx"), MODEL / weights)
            # Without a time stamp, so that the same graph is the same file.
            (out / f"{part}.onnx.gz").write_bytes(gzip.compress(model.SerializeToString(), 9, mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
