#!/usr/bin/env python3
"""Lays out the models that were trained here: MiniLM's weights, and the tensors that a script of
this folder learned.

    python3 serving-image/scripts/fetch_minilm.py
    python3 serving-image/scripts/fetch_trained.py

Nothing is downloaded but what fetch_minilm.py does. Each lies afterwards under
$XDG_CACHE_HOME/serin/models/NAME/1.0.0 (~/.cache where that is unset). What was learned and the
manifests with the files' sha256 are in this repository. Nothing is done where a directory is
already complete.
"""

import json
import shutil
import struct
import tempfile
from pathlib import Path

from artefacts import MANIFEST, SERVING, is_complete, put_in_place, write_manifest
from environment import cache
from fetch_minilm import MINILM


class Trained:
    """MiniLM, with some tensors that are its own."""

    def __init__(self, name):
        self.name = name
        self.manifest = SERVING / "models" / name / MANIFEST
        self.learned = SERVING / "models" / name / "learned.safetensors"
        self.fixture = SERVING / f"tests/fixtures/{name}.json"
        self.directory = cache() / "models" / name / "1.0.0"

    def fill(self, directory):
        for name in ["config.json", "tokenizer.json"]:
            shutil.copyfile(MINILM.directory / name, directory / name)
        join(MINILM.directory / "model.safetensors", self.learned, directory / "model.safetensors")

    def lay_out(self):
        def fill(directory):
            self.fill(directory)
            shutil.copyfile(self.manifest, directory / MANIFEST)

        put_in_place(self.directory, fill, lambda directory: is_complete(directory, self.manifest))

    def record(self, own, texts, instances, rows):
        """For what trains it: writes the manifest, of which `own` is its own part, and what it
        answers to some instances."""
        fixture = {"source": "transformers 5.23.0", "tolerance": 1e-5, "instances": instances, "outputs": rows}
        self.fixture.write_text(json.dumps(fixture, indent=1, ensure_ascii=False) + "\n")
        encoder = json.loads(MINILM.manifest.read_text())
        manifest = {
            "schemaVersion": 1,
            "name": self.name,
            "version": "1.0.0",
            "licence": "Apache-2.0",
            **own,
            "inputs": [{**encoder["inputs"][0], "name": text} for text in texts],
            "preprocessing": encoder["preprocessing"],
            "network": {
                "architecture": "bert",
                "config": "config.json",
                "weights": "model.safetensors",
                "head": "classifier",
            },
            "limits": encoder["limits"],
            "background": {"mask": "[MASK]"},
            "golden": [
                {"instance": instance, "output": row, "tolerance": 1e-4} for instance, row in list(zip(instances, rows))[:2]
            ],
        }
        with tempfile.TemporaryDirectory() as scratch:
            self.fill(Path(scratch))
            write_manifest(scratch, manifest)
            shutil.copyfile(Path(scratch) / MANIFEST, self.manifest)
        print(f"wrote {self.learned}, {self.manifest} and {self.fixture}")


SENTIMENT = Trained("minilm-sentiment")
RERANKER = Trained("minilm-reranker")


def read(path):
    """The tensors of a safetensors file by name: what the header says of each, and its bytes."""
    content = path.read_bytes()
    [length] = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    data = memoryview(content)[8 + length :]
    return {name: (tensor, data[slice(*tensor["data_offsets"])]) for name, tensor in header.items()}


def join(first, second, joined):
    """Writes the tensors of two safetensors files into one; the second's stand for those of the
    same name."""
    tensors = {**read(first), **read(second)}
    header, end = {}, 0
    for name, (tensor, data) in tensors.items():
        header[name] = {**tensor, "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(joined, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, data in tensors.values():
            file.write(data)


if __name__ == "__main__":
    for trained in (SENTIMENT, RERANKER):
        trained.lay_out()
