#!/usr/bin/env python3
"""Writes the manifests of the real models in ONNX, and records what ONNX Runtime's own Python
binding computes.

    python3 serving-image/scripts/fetch_minilm.py
    python3 serving-image/scripts/record_onnx.py

Writes serving-image/models/NAME/serin-model.json and serving-image/tests/fixtures/NAME.json.
Preprocessing is that of each model's own package, written out here anew: file contents for magika,
images for the direction of text, texts for the int8 MiniLM, which is also held against the 32-bit
one.
"""

import json
import tempfile
from pathlib import Path

import environment

environment.enter("numpy==2.4.6", "onnxruntime==1.31.1", "tokenizers==0.23.3")

import numpy as np
import onnxruntime
from artefacts import SERVING, list_files
from fetch_models import MINILM, fetch_files
from tokenizers import Tokenizer

FIXTURES = SERVING / "tests/fixtures"
TOLERANCE = 1e-5


def session(directory):
    return onnxruntime.InferenceSession(directory / "model.onnx", providers=["CPUExecutionProvider"])


def write(folder, directory, manifest, instances, outputs, source, tolerance=TOLERANCE):
    outputs = [[float(np.float32(number)) for number in output] for output in outputs]
    golden = [{"instance": instances[0], "output": outputs[0], "tolerance": tolerance}]
    manifest = {"schemaVersion": 1, **manifest, "golden": golden, "files": list_files(directory)}
    path = SERVING / "models" / folder / "serin-model.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest, ensure_ascii=False) + "\n")
    fixture = {"source": source, "tolerance": tolerance, "instances": instances, "outputs": outputs}
    (FIXTURES / f"{folder}.json").write_text(json.dumps(fixture, ensure_ascii=False) + "\n")
    print(f"{folder}: {len(instances)} instances")


# ------------------------------------------------------------------------- magika: files by content

CONTENTS = {
    "python": b"import os\n\n\ndef main():\n    for name in sorted(os.listdir('.')):\n        print(name)\n\n\nif __name__ == '__main__':\n    main()\n",
    "rust": b"use std::fmt;\n\n#[derive(Debug)]\npub struct Point { x: f64, y: f64 }\n\nimpl fmt::Display for Point {\n    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {\n        write!(f, \"({}, {})\", self.x, self.y)\n    }\n}\n",
    "json": json.dumps({"name": "serin", "versions": [1, 2, 3], "nested": {"ok": True}}).encode() * 3,
    "png": bytes([0x89]) + b"PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x10\x00\x00\x00\x10\x08\x02\x00\x00\x00\x90\x91h6" + bytes(200),
    "html": b"<!doctype html><html><head><title>Serin</title></head><body><p>A small finch.</p></body></html>" * 30,
}  # fmt: skip


def features(content, config):
    """The first and the last 1,024 bytes without white space at the ends; 256 stands for none."""
    size, padding = config["beg_size"], config["padding_token"]
    begin = list(content[: config["block_size"]].lstrip()[:size])
    end = list(content[-config["block_size"] :].rstrip()[-config["end_size"] :])
    return begin + [padding] * (size - len(begin)) + [padding] * (config["end_size"] - len(end)) + end


def magika(directory):
    from artefacts import from_wheel

    with tempfile.TemporaryDirectory() as scratch:
        members = {"magika/models/standard_v3_3/config.min.json": "config.json"}
        from_wheel("magika==1.0.3", members, scratch)
        config = json.loads((Path(scratch) / "config.json").read_text())
    rows = [features(content, config) for content in CONTENTS.values()]
    [outputs] = session(directory).run(["target_label"], {"bytes": np.array(rows, np.int32)})
    labels = config["target_labels_space"]
    for name, output in zip(CONTENTS, outputs):
        found = labels[int(output.argmax())]
        assert found == name, f"{name} is taken for {found}"
    manifest = {
        "name": "magika", "version": "3.3.0", "description": "Google's classifier of files by content: 214 types from 2,048 bytes.",
        "licence": "Apache-2.0", "kind": "tensor", "task": "classification",
        "inputs": [{"name": "bytes", "type": "tensor", "dtype": "int32", "shape": [2048], "min": 0, "max": 256, "nullable": False}],
        "preprocessing": [],
        "network": {"architecture": "onnx", "graph": "model.onnx", "outputs": [{"name": "target_label", "holds": "probabilities"}]},
        "outputs": {"labels": labels}, "limits": {"maxInstances": 64},
    }  # fmt: skip
    write("magika", directory, manifest, [{"bytes": row} for row in rows], outputs, "onnxruntime in Python")


# ------------------------------------------------------------------ the direction of a line of text


def line(seed):
    """A made-up line: dark strokes on a light ground, height 48, width 64."""
    random = np.random.default_rng(seed)
    image = np.full((48, 64, 3), 235, np.uint8)
    for x in range(4, 60, 8):
        image[random.integers(6, 20) : random.integers(28, 42), x : x + random.integers(2, 6)] = random.integers(0, 90)
    return image


def text_direction(directory):
    images = [line(1), line(2), np.ascontiguousarray(line(1)[::-1, ::-1])]
    planes = [((image.astype(np.float64) / 255 - 0.5) / 0.5).transpose(2, 0, 1).astype(np.float32) for image in images]
    outputs = session(directory).run(None, {"x": np.stack(planes)})[0]
    manifest = {
        "name": "text-direction", "version": "2.0.0",
        "description": "PaddleOCR's classifier: does a line of text stand on its head? The image is as high as 48 pixels.",
        "licence": "Apache-2.0", "kind": "tensor", "task": "classification",
        "inputs": [{"name": "x", "type": "tensor", "dtype": "uint8", "shape": [48, None, 3], "nullable": False}],
        "preprocessing": [{"step": "image", "input": "x", "rescale": 1 / 255, "mean": [0.5] * 3, "std": [0.5] * 3}],
        "network": {"architecture": "onnx", "graph": "model.onnx",
                    "outputs": [{"name": "save_infer_model/scale_0.tmp_1", "holds": "probabilities"}]},
        "outputs": {"labels": ["0", "180"]}, "limits": {"maxInstances": 16},
    }  # fmt: skip
    instances = [{"x": image.tolist()} for image in images]
    write("text-direction", directory, manifest, instances, outputs, "onnxruntime in Python")


# --------------------------------------------------------------------------------- MiniLM with int8


def minilm(directory):
    texts = json.loads((FIXTURES / "all-minilm-l6-v2.json").read_text())["texts"]
    tokenizer = Tokenizer.from_file(str(MINILM / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    run = session(directory).run
    vectors = []
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids], np.int64)
        hidden = run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)})[0]
        mean = hidden[0].astype(np.float64).mean(axis=0)
        vectors.append(mean / np.linalg.norm(mean))
    manifest = json.loads((SERVING / "models/all-minilm-l6-v2/serin-model.json").read_text())
    manifest = {key: manifest[key] for key in ("name", "licence", "inputs", "preprocessing", "outputs", "limits")} | {
        "version": "2.0.0", "kind": "text", "task": "sentence-embedding",
        "description": "all-MiniLM-L6-v2 with 8-bit weights, exported from PyTorch: a quarter of the size.",
        "network": {"architecture": "onnx", "graph": "model.onnx",
                    "outputs": [{"name": "last_hidden_state", "holds": "tokenVectors"}]},
    }  # fmt: skip
    write("all-minilm-l6-v2-int8", directory, manifest, texts, vectors, "onnxruntime in Python", 1e-4)


def main():
    for folder, record in {"magika": magika, "text-direction": text_direction, "all-minilm-l6-v2-int8": minilm}.items():
        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch)
            fetch_files(folder, directory)
            record(directory)


if __name__ == "__main__":
    main()
