#!/usr/bin/env python3
"""Lays out a classifier of sentiment: MiniLM's weights, and the head that train_sentiment.py learned.

    python3 serving-image/scripts/fetch_minilm.py
    python3 serving-image/scripts/fetch_sentiment.py [DIRECTORY]

Nothing is downloaded but what fetch_minilm.py does. DIRECTORY is by default
$XDG_CACHE_HOME/serin/models/minilm-sentiment/1.0.0 (~/.cache where that is unset). The manifest with the files' sha256 is
in this repository. Nothing is done where the directory is already complete.
"""

import json
import shutil
import struct
import sys
from pathlib import Path

from artefacts import SERVING, is_complete, put_in_place
from environment import cache
from fetch_minilm import MINILM

MODEL = "minilm-sentiment"
MANIFEST = SERVING / "models" / MODEL / "serin-model.json"
HEAD = SERVING / "models" / MODEL / "head.safetensors"


def read(path):
    """The header and the data of a safetensors file."""
    content = path.read_bytes()
    [length] = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    return header, content[8 + length :]


def join(first, second, joined):
    """Writes the tensors of two safetensors files into one."""
    header, data = read(first)
    more, tail = read(second)
    for name, tensor in more.items():
        begin, end = tensor["data_offsets"]
        header[name] = {**tensor, "data_offsets": [len(data) + begin, len(data) + end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    joined.write_bytes(struct.pack("<Q", len(text)) + text + data + tail)


def main():
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else cache() / "models" / MODEL / "1.0.0"

    def fill(directory):
        for name in ["config.json", "tokenizer.json"]:
            shutil.copyfile(MINILM.directory / name, directory / name)
        join(MINILM.directory / "model.safetensors", HEAD, directory / "model.safetensors")
        shutil.copyfile(MANIFEST, directory / MANIFEST.name)

    put_in_place(directory, fill, lambda directory: is_complete(directory, MANIFEST))


if __name__ == "__main__":
    main()
