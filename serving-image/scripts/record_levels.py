#!/usr/bin/env python3
"""Writes tests/models/picture-levels: a graph that takes pictures as TensorFlow's detectors do,
with its fixture.

    python3 serving-image/scripts/record_levels.py

Its input is uint8, instances × height × width × channels, of any size, under a name with a colon,
as tf2onnx exports SSD detectors; it scales the levels by itself. It is not trained: one output adds
up each channel's levels, which is exact and so tells a single level that is off, and one are the
scores of a small convolution with random weights. Pillow prepares the pictures of
tests/fixtures/pictures, and ONNX Runtime computes.
"""

import base64
import json

import environment

environment.enter("numpy==2.4.6", "onnx==1.23.2", "onnxruntime==1.31.1", "pillow==12.3.0")

import numpy as np
import onnxruntime
from artefacts import SERVING, write_manifest
from onnx import TensorProto, checker, helper, numpy_helper
from PIL import Image, ImageOps

DIRECTORY = SERVING / "tests/models/picture-levels"
FIXTURES = SERVING / "tests/fixtures"
INPUT, CLASSES = "image_tensor:0", 6
WIDTH, HEIGHT, FILL = 40, 32, [114, 20, 250]
PICTURES = ["photo.png", "photo-grey.png", "palette.png", "alpha.png", "exact-lanczos.png", "wider-bicubic.png"]


def graph():
    """The levels' sums; and scaled to −1 to 1, channels first, a convolution, the mean over its
    places, and scores."""
    random = np.random.default_rng(11)
    constants = {
        "places": np.array([1, 2], np.int64),
        "factor": np.array(2 / 255, np.float32),
        "one": np.array(1, np.float32),
        "filters": random.normal(0, 0.4, (8, 3, 3, 3)).astype(np.float32),
        "weights": random.normal(0, 2, (8, CLASSES)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", [INPUT], ["whole"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["whole", "places"], ["level_sums"], keepdims=0),
        helper.make_node("Cast", [INPUT], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["levels", "factor"], ["to_two"]),
        helper.make_node("Sub", ["to_two", "one"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "filters"], ["features"], strides=[2, 2]),
        helper.make_node("Relu", ["features"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["means"]),
        helper.make_node("Flatten", ["means"], ["vector"]),
        helper.make_node("MatMul", ["vector", "weights"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["detection_scores"]),
    ]
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "picture-levels",
        [value(INPUT, TensorProto.UINT8, ("batch", "height", "width", 3))],
        [
            value("level_sums", TensorProto.INT64, ("batch", 3)),
            value("detection_scores", TensorProto.FLOAT, ("batch", CLASSES)),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    return model.SerializeToString()


def prepared(path):
    picture = Image.open(path).convert("RGB")
    padded = ImageOps.pad(picture, (WIDTH, HEIGHT), Image.BICUBIC, color=tuple(FILL))
    return np.asarray(padded, np.uint8)


def main():
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    (DIRECTORY / "model.onnx").write_bytes(graph())
    files = [FIXTURES / "pictures" / name for name in PICTURES]
    session = onnxruntime.InferenceSession(DIRECTORY / "model.onnx", providers=["CPUExecutionProvider"])
    sums, scores = session.run(None, {INPUT: np.stack([prepared(file) for file in files])})
    # Scores that all are 0 or 1 would hide a wrong level.
    assert ((scores > 0.01) & (scores < 0.99)).mean() > 0.5, scores
    outputs = [[float(number) for number in [*sum, *score]] for sum, score in zip(sums, scores)]
    instances = [{INPUT: base64.b64encode(file.read_bytes()).decode()} for file in files]
    manifest = {
        "schemaVersion": 1, "name": "picture-levels", "version": "1.0.0",
        "description": "Takes pictures as TensorFlow's detectors do, as uint8 in height × width × channels. Not trained.",
        "licence": "Apache-2.0", "kind": "tensor", "task": "raw",
        "inputs": [{"name": INPUT, "type": "image"}],
        "preprocessing": [{
            "step": "image", "input": INPUT, "dtype": "uint8", "layout": "channelsLast",
            "resize": {"width": WIDTH, "height": HEIGHT, "mode": "pad", "fill": FILL, "filter": "bicubic"},
        }],
        "network": {"architecture": "onnx", "graph": "model.onnx"},
        "outputs": {}, "limits": {"maxInstances": 16},
        "golden": [{"instance": instances[0], "output": outputs[0], "tolerance": 1e-5}],
    }  # fmt: skip
    write_manifest(DIRECTORY, manifest)
    fixture = {"source": "Pillow and onnxruntime in Python", "tolerance": 1e-5, "instances": instances, "outputs": outputs}
    (FIXTURES / "picture-levels.json").write_text(json.dumps(fixture) + "\n")
    print(f"picture-levels: {len(files)} pictures, scores from {scores.min():.3f} to {scores.max():.3f}")


if __name__ == "__main__":
    main()
