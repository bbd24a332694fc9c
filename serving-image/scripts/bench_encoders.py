#!/usr/bin/env python3
"""Times all-MiniLM-L6-v2 from text to vector: serin-serve beside onnxruntime, in 32-bit floats both.

    cargo xtask bench serve        # builds, then runs this

Every peer is a process of its own that gets the same texts on standard input and times itself, from the text to the
normalised vector. In each round all of them take their turn, so a busy neighbour slows all alike; the ratios of the
medians are what to trust, and on a busy machine those of the CPU time. onnxruntime computes the same 32-bit weights in a graph that is written here with its own
fused operators (Attention, SkipLayerNormalization, BiasGelu), which is the best that its optimiser could make of it.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

from environment import cache, enter
from fetch_minilm import destination

GRAPH = cache() / "bench/minilm.onnx"
PACKAGES = ["numpy==2.4.6", "onnx==1.23.2", "onnxruntime==1.31.1", "safetensors==0.8.0", "tokenizers==0.23.3"]
SHAPES = [(1, 16), (32, 16), (32, 128)]
LAYERS, HEADS, HIDDEN, EPSILON = 6, 12, 384, 1e-12


# ------------------------------------------------------------------------------------------------- the peers


def export_onnx(path):
    """The encoder as a graph of onnxruntime's fused operators, with mean pooling and unit length at the end."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from safetensors.numpy import load_file

    weights = load_file(destination() / "model.safetensors")
    nodes, constants = [], []

    def constant(name, value):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(operator, inputs, output, domain="", outputs=(), **attributes):
        nodes.append(helper.make_node(operator, inputs, [output, *outputs], domain=domain, **attributes))
        return output

    def fused(operator, inputs, output, outputs=(), **attributes):
        return node(operator, inputs, output, "com.microsoft", outputs, **attributes)

    def of(name):
        return constant(name, weights[name])

    def transposed(name):
        return constant(f"{name}.T", weights[name].T)

    x = fused(
        "EmbedLayerNormalization",
        [
            "input_ids",
            "token_type_ids",
            *(of(f"embeddings.{name}_embeddings.weight") for name in ("word", "position", "token_type")),
            of("embeddings.LayerNorm.weight"),
            of("embeddings.LayerNorm.bias"),
            "attention_mask",
        ],
        "embedded",
        outputs=["lengths"],
        epsilon=EPSILON,
    )
    for index in range(LAYERS):
        layer = f"encoder.layer.{index}"
        parts = [f"{layer}.attention.self.{part}" for part in ("query", "key", "value")]
        qkv = constant(f"{layer}.qkv.weight", np.concatenate([weights[f"{part}.weight"].T for part in parts], axis=1))
        bias = constant(f"{layer}.qkv.bias", np.concatenate([weights[f"{part}.bias"] for part in parts]))
        attended = fused("Attention", [x, qkv, bias, "lengths"], f"{layer}.attended", num_heads=HEADS)

        def norm(product, residual, name, bias):
            inputs = [product, residual, of(f"{name}.LayerNorm.weight"), of(f"{name}.LayerNorm.bias"), of(bias)]
            return fused("SkipLayerNormalization", inputs, f"{name}.norm", epsilon=EPSILON)

        product = node("MatMul", [attended, transposed(f"{layer}.attention.output.dense.weight")], f"{layer}.mixed")
        x = norm(product, x, f"{layer}.attention.output", f"{layer}.attention.output.dense.bias")
        wide = node("MatMul", [x, transposed(f"{layer}.intermediate.dense.weight")], f"{layer}.wide")
        wide = fused("BiasGelu", [wide, of(f"{layer}.intermediate.dense.bias")], f"{layer}.gelu")
        product = node("MatMul", [wide, transposed(f"{layer}.output.dense.weight")], f"{layer}.narrow")
        x = norm(product, x, f"{layer}.output", f"{layer}.output.dense.bias")
    axis = constant("axis", np.array([2], dtype=np.int64))
    tokens = constant("tokens", np.array([1], dtype=np.int64))
    present = node("Cast", [node("Unsqueeze", ["attention_mask", axis], "mask3")], "present", to=TensorProto.FLOAT)
    total = node("ReduceSum", [node("Mul", [x, present], "kept"), tokens], "total", keepdims=0)
    mean = node("Div", [total, node("ReduceSum", [present, tokens], "count", keepdims=0)], "mean")
    node("LpNormalization", [mean], "vector", axis=1, p=2)

    shape = ["texts", "tokens"]
    graph = helper.make_graph(
        nodes,
        "minilm",
        [
            helper.make_tensor_value_info(name, TensorProto.INT32, shape)
            for name in ("input_ids", "token_type_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["texts", HIDDEN])],
        constants,
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)


def onnxruntime_encoder(threads):
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(destination() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(GRAPH, options, ["CPUExecutionProvider"])

    def encode(texts):
        encodings = tokenizer.encode_batch(texts)
        inputs = {
            "input_ids": np.array([encoding.ids for encoding in encodings], dtype=np.int32),
            "token_type_ids": np.array([encoding.type_ids for encoding in encodings], dtype=np.int32),
            "attention_mask": np.array([encoding.attention_mask for encoding in encodings], dtype=np.int32),
        }
        return session.run(None, inputs)[0]

    return encode


def serve_peer(threads):
    """Answers each line, a JSON array of texts, by the seconds it took and the first vector."""
    encode = onnxruntime_encoder(threads)
    for line in sys.stdin:
        texts = json.loads(line)
        started = time.perf_counter()
        vectors = encode(texts)
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "vector": [float(value) for value in vectors[0]]}), flush=True)


# -------------------------------------------------------------------------------------------- the measurement


class Peer:
    def __init__(self, name, command):
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def encode(self, texts):
        self.process.stdin.write(json.dumps(texts) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended")
        answer = json.loads(line)
        return answer["seconds"], answer["vector"]

    def resident_megabytes(self):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1000
        return float("nan")

    def cpu_seconds(self):
        """What all its threads have used so far, in ticks of 10 ms."""
        after_name = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def texts_of(count, tokens, seed):
    """Texts of exactly that many tokens: words that are one token each, between the two special ones."""
    vocabulary = json.loads((destination() / "tokenizer.json").read_text())["model"]["vocab"]
    words = sorted(word for word in vocabulary if word.isascii() and word.isalpha() and len(word) > 2)
    choose = random.Random(seed)
    return [" ".join(choose.choices(words, k=tokens - 2)) for _ in range(count)]


def measure(peers, rounds):
    for texts, tokens in SHAPES:
        batch = texts_of(texts, tokens, seed=tokens)
        vectors = [peer.encode(batch)[1] for peer in peers]  # also warms up
        for peer, vector in zip(peers, vectors):
            difference = max(abs(a - b) for a, b in zip(vector, vectors[0]))
            if difference > 1e-5:
                sys.exit(f"{peer.name} computes something else: a vector differs by {difference:.1e}")
        repeat = rounds * (10 if texts == 1 else 1)
        seconds = [[] for _ in peers]
        used = [-peer.cpu_seconds() for peer in peers]
        for _ in range(repeat):
            for times, peer in zip(seconds, peers):
                times.append(peer.encode(batch)[0])
        used = [(before + peer.cpu_seconds()) / repeat for before, peer in zip(used, peers)]
        medians = [statistics.median(times) for times in seconds]
        for peer, median, times, cpu in zip(peers, medians, seconds, used):
            print(
                f"{texts:>3} × {tokens:<4} {peer.name:<22} median {median * 1e3:>8.2f} ms, best {min(times) * 1e3:>8.2f} ms,"
                f" CPU {cpu * 1e3:>8.2f} ms; serin-serve is {medians[0] / median:.2f} × this, {used[0] / cpu:.2f} × its CPU"
            )
    for peer in peers:
        print(f"memory     {peer.name:<22} {peer.resident_megabytes():>9.0f} MB resident")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--serin", help="the built example `encode`")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    enter(*PACKAGES)
    if arguments.peer:
        return serve_peer(arguments.threads)
    if not GRAPH.exists():
        GRAPH.parent.mkdir(parents=True, exist_ok=True)
        export_onnx(GRAPH)
    threads = str(arguments.threads)
    peers = [
        Peer("serin-serve", [arguments.serin, str(destination()), threads]),
        Peer("onnxruntime", [sys.executable, __file__, "--peer", "--threads", threads]),
    ]
    try:
        measure(peers, arguments.rounds)
    finally:
        for peer in peers:
            peer.close()


if __name__ == "__main__":
    main()
