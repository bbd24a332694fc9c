#!/usr/bin/env python3
"""Writes the small graphs of tests/graphs: sound ones, and those that cannot be served, for the
errors that say why.

    python3 serving-image/scripts/record_graphs.py

tests/reference/graphs.rs says what is wrong with each, and which words the error must have.
"""

import environment

environment.enter("numpy==2.4.6", "onnx==1.23.2")

import numpy as np
from artefacts import SERVING
from onnx import TensorProto, helper, numpy_helper

GRAPHS = SERVING / "tests/graphs"
FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


def value(name, dtype=FLOAT, shape=(None, 2)):
    return helper.make_tensor_value_info(name, dtype, shape)


def node(operator, inputs, outputs, domain="", name="the_node", **attributes):
    return helper.make_node(operator, inputs, outputs, name=name, domain=domain, **attributes)


def write(name, nodes, inputs=None, outputs=None, initializers=(), opset=17, ir=8, **domains):
    """A graph from X to Y, each rows of two numbers where nothing else is said."""
    graph = helper.make_graph(nodes, "graph", inputs or [value("X")], outputs or [value("Y")], list(initializers))
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(domain.replace("_", "."), version) for domain, version in domains.items()]
    content = helper.make_model(graph, opset_imports=opsets, ir_version=ir).SerializeToString()
    (GRAPHS / f"{name}.onnx").write_bytes(content)
    return content


def outside(location, offset=0):
    """A tensor of four numbers that lies in another file."""
    tensor = TensorProto(name="W", data_type=FLOAT, dims=[2, 2], data_location=TensorProto.EXTERNAL)
    for key, text in (("location", location), ("offset", str(offset)), ("length", "16")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, text
    return tensor


def sound():
    write("sound", [node("Identity", ["X"], ["Y"])])
    multiply = [node("MatMul", ["X", "W"], ["Y"])]
    write("outside", multiply, initializers=[outside("weights.bin")])
    np.array([[1, 2], [3, 4]], np.float32).tofile(GRAPHS / "weights.bin")
    write("outside-beyond", multiply, initializers=[outside("weights.bin", offset=8)])
    # How the library itself writes the address of a tensor in its memory.
    write("outside-address", multiply, initializers=[outside("*/_ORT_MEM_ADDR_/*", offset=4096)])


def not_computed():
    write("unknown-operator", [node("Frobnicate", ["X"], ["Y"])])
    write("unknown-domain", [node("Frobnicate", ["X"], ["Y"], domain="com.example")], com_example=1)
    identity = [node("Identity", ["X"], ["Y"])]
    write("newer-opset", identity, opset=99)
    write("newer-domain", [node("Scaler", ["X"], ["Y"], domain="ai.onnx.ml", offset=[0.0], scale=[1.0])], ai_onnx_ml=99)
    write("newer-file", identity, ir=99)
    write("newer-operator", [node("Gelu", ["X"], ["Y"])])
    texts = [value("X", STRING)], [value("Y", STRING)]
    write("wrong-type", [node("Erf", ["X"], ["Y"])], *texts)
    half = [value("X", TensorProto.BFLOAT16)], [value("Y", TensorProto.BFLOAT16)]
    write("no-kernel", [node("Sin", ["X"], ["Y"])], *half, opset=22)
    write("no-attribute", [node("Cast", ["X"], ["Y"])])
    write("no-weights", [node("MatMul", ["X", "W"], ["Y"])])
    weights = numpy_helper.from_array(np.ones((4, 2), np.float32), "W")
    write("wrong-shape", [node("MatMul", ["X", "W"], ["Y"])], initializers=[weights])
    circle = [node("Add", ["X", "Y"], ["A"]), node("Add", ["A", "X"], ["Y"], name="other")]
    write("circle", circle)
    write("no-output", [node("Identity", ["X"], ["Z"])])
    content = write("cut", identity)
    (GRAPHS / "cut.onnx").write_bytes(content[:-20])


def not_as_the_manifest():
    write("integers", [node("Cast", ["X"], ["Y"], to=FLOAT)], [value("X", INT64)])
    write("two-inputs", [node("Add", ["A", "B"], ["Y"])], [value("A"), value("B")])
    write("four-rows", [node("Identity", ["X"], ["Y"])], [value("X", shape=(4, 2))], [value("Y", shape=(4, 2))])
    levels = [value("X", TensorProto.UINT8, (None, 2, 2, 3))]
    write("bytes", [node("Cast", ["X"], ["Y"], to=FLOAT)], levels, [value("Y", shape=(None, 2, 2, 3))])
    half = [value("Y", TensorProto.FLOAT16)]
    write("half", [node("Cast", ["X"], ["Y"], to=TensorProto.FLOAT16)], outputs=half)
    sequence = [helper.make_tensor_sequence_value_info("Y", FLOAT, None)]
    write("sequence", [node("SequenceConstruct", ["X"], ["Y"])], outputs=sequence)
    write("total", [node("ReduceSum", ["X"], ["Y"], keepdims=0)], outputs=[value("Y", shape=())])
    maps = helper.make_sequence_type_proto(helper.make_map_type_proto(STRING, helper.make_tensor_type_proto(FLOAT, ())))
    named = [helper.make_value_info("Y", maps)]
    zip_map = node("ZipMap", ["X"], ["Y"], domain="ai.onnx.ml", classlabels_strings=["no", "yes"])
    write("names", [zip_map], outputs=named, ai_onnx_ml=3)
    linear = {"coefficients": [1.0, 0.0, 0.0, 1.0], "intercepts": [0.0, 0.0], "multi_class": 1}
    for name, known, dtype in (("labels", {"classlabels_strings": ["no", "yes"]}, STRING), ("numbers", {"classlabels_ints": [3, 7]}, INT64)):
        classifier = node("LinearClassifier", ["X"], ["label", "Y"], domain="ai.onnx.ml", **known, **linear)
        write(name, [classifier], outputs=[value("label", dtype, (None,)), value("Y")], ai_onnx_ml=1)


def main():
    GRAPHS.mkdir(parents=True, exist_ok=True)
    sound()
    not_computed()
    not_as_the_manifest()
    print(f"{len(list(GRAPHS.iterdir()))} files in {GRAPHS}")


if __name__ == "__main__":
    main()
