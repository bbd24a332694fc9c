#!/usr/bin/env python3
"""Times all-MiniLM-L6-v2 from text to vector: serin-serve beside onnxruntime, in 32-bit floats
both.

    cargo xtask bench serve        # builds, then runs this

Every peer times itself, from the texts to the normalised vectors. onnxruntime computes the same
32-bit weights in a graph that is written here with its own fused operators (Attention,
SkipLayerNormalization, BiasGelu), which is the best that its optimiser could make of it. With
--torch also sentence-transformers, on PyTorch as PyPI has it: that is built for CUDA, and 5 GB when
it is installed, but computes on the CPU all the same.
"""

import json
import os
import random
import sys
import time

from bench import Peer, answer_lines, compare, in_turns, median, parser
from environment import cache, enter, install
from fetch_minilm import MINILM

GRAPH = cache() / "bench/minilm.onnx"
PACKAGES = ["numpy==2.4.6", "onnx==1.23.2", "onnxruntime==1.31.1", "safetensors==0.8.0", "tokenizers==0.23.3"]
TORCH = ["numpy==2.4.6", "sentence-transformers==6.2.0", "torch==2.15.0"]
SHAPES = [(1, 16), (32, 16), (32, 128)]
LAYERS, HEADS, HIDDEN, EPSILON = 6, 12, 384, 1e-12


# ---------------------------------------------------------------------------------------- the peers


def export_onnx(path):
    """The encoder as a graph of onnxruntime's fused operators, with mean pooling and unit length
    at the end."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from safetensors.numpy import load_file

    weights = load_file(MINILM.directory / "model.safetensors")
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

    tokenizer = Tokenizer.from_file(str(MINILM.directory / "tokenizer.json"))
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


def torch_encoder(threads):
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    torch.set_num_threads(threads)
    modules = [Transformer(str(MINILM.directory)), Pooling(HIDDEN, "mean"), Normalize()]
    model = SentenceTransformer(modules=modules, device="cpu")
    return lambda texts: model.encode(texts, batch_size=len(texts), show_progress_bar=False)


def serve_peer(encode):
    """Answers an array of texts by the seconds it took, and the first vector."""

    def answer(texts):
        started = time.perf_counter()
        vectors = encode(texts)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "vector": [float(value) for value in vectors[0]]}

    answer_lines(answer)


# ---------------------------------------------------------------------------------- the measurement


def texts_of(count, tokens, seed):
    """Texts of exactly that many tokens: words that are one token each, between the two special ones."""
    vocabulary = json.loads((MINILM.directory / "tokenizer.json").read_text())["model"]["vocab"]
    words = sorted(word for word in vocabulary if word.isascii() and word.isalpha() and len(word) > 2)
    choose = random.Random(seed)
    return [" ".join(choose.choices(words, k=tokens - 2)) for _ in range(count)]


def measure(peers, rounds):
    for texts, tokens in SHAPES:
        batch = texts_of(texts, tokens, seed=tokens)
        vectors = [peer.ask(batch)["vector"] for peer in peers]  # also warms up
        for peer, vector in zip(peers, vectors):
            difference = max(abs(a - b) for a, b in zip(vector, vectors[0]))
            if difference > 1e-5:
                sys.exit(f"{peer.name} computes something else: a vector differs by {difference:.1e}")
        answers, used = in_turns(peers, batch, rounds * (10 if texts == 1 else 1))
        medians = [median(own, "seconds") for own in answers]
        for peer, own, typical, cpu in zip(peers, answers, medians, used):
            best = min(answer["seconds"] for answer in own)
            print(
                f"{texts:>3} × {tokens:<4} {peer.name:<22} median {typical * 1e3:>8.2f} ms, best {best * 1e3:>8.2f} ms,"
                f" CPU {cpu * 1e3:>8.2f} ms; serin-serve is {medians[0] / typical:.2f} × this, {used[0] / cpu:.2f} × its CPU"
            )
    own = peers[0].resident_megabytes()
    for peer in peers:
        resident = peer.resident_megabytes()
        print(f"memory    {peer.name:<22} {resident:>7.0f} MB resident; serin-serve is {own / resident:.2f} × this")


def main():
    command_line = parser(__doc__.splitlines()[0], "encode", rounds=20)
    command_line.add_argument("--torch", action="store_true", help="beside sentence-transformers, too")
    arguments = command_line.parse_args()
    if arguments.peer == "torch":
        return serve_peer(torch_encoder(arguments.threads))
    enter(*PACKAGES)
    if arguments.peer:
        return serve_peer(onnxruntime_encoder(arguments.threads))
    if not GRAPH.exists():
        GRAPH.parent.mkdir(parents=True, exist_ok=True)
        export_onnx(GRAPH)
    threads = str(arguments.threads)
    peers = [
        Peer("serin-serve", [arguments.serin, str(MINILM.directory), threads]),
        Peer("onnxruntime", [sys.executable, __file__, "--peer", "onnxruntime", "--threads", threads]),
    ]
    if arguments.torch:
        python = install(*TORCH)
        peers.append(Peer("sentence-transformers", [python, __file__, "--peer", "torch", "--threads", threads]))
    compare(peers, threads, measure, arguments.rounds)


if __name__ == "__main__":
    main()
