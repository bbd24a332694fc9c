#!/usr/bin/env python3
"""Records reference vectors of all-MiniLM-L6-v2, computed in numpy in 64-bit floats, independent of
candle.

    python3 serving-image/scripts/fetch_minilm.py
    python3 -m venv venv && venv/bin/pip install numpy==2.4.6 safetensors==0.8.0 tokenizers==0.23.3
    venv/bin/python serving-image/scripts/reference_embeddings.py

Writes serving-image/tests/fixtures/all-minilm-l6-v2.json, to which a test holds the server within
1e-4, and the one golden example of serving-image/models/all-minilm-l6-v2/serin-model.json. Tokens
come from Hugging Face's tokeniser, the formulas from the BERT paper (Devlin et al. 2019) and
sentence-transformers' mean pooling and L2 norm.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).parent))
from fetch_minilm import MINILM  # noqa: E402

FIXTURE = Path(__file__).resolve().parents[1] / "tests/fixtures/all-minilm-l6-v2.json"
LAYERS, HEADS, EPSILON = 6, 12, 1e-12
TEXTS = [
    "The serin is a small finch.",
    "A canary is a domesticated bird.",
    "Kubernetes schedules pods onto nodes.",
    "ok",
    "Über naïve café — “quotes”, 東京, emoji 🐦 and a veryveryverylongunknownwordxyzzy.",
    "Roll the new version out to ten percent of the traffic, and watch its errors and its latency; " * 8,
]

erf = np.vectorize(math.erf)


def dense(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(x, weights, name):
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON)
    return centred / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def softmax(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def embed(ids, weights):
    words = weights["embeddings.word_embeddings.weight"][ids]
    positions = weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(words + positions + weights["embeddings.token_type_embeddings.weight"][0], weights, "embeddings.LayerNorm")
    for index in range(LAYERS):
        layer = f"encoder.layer.{index}"
        queries, keys, values = (
            dense(x, weights, f"{layer}.attention.self.{part}").reshape(len(ids), HEADS, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = queries @ keys.swapaxes(1, 2) / math.sqrt(queries.shape[-1])
        attended = (softmax(scores) @ values).swapaxes(0, 1).reshape(len(ids), -1)
        attended = dense(attended, weights, f"{layer}.attention.output.dense")
        x = norm(x + attended, weights, f"{layer}.attention.output.LayerNorm")
        wide = dense(x, weights, f"{layer}.intermediate.dense")
        wide = wide * 0.5 * (1 + erf(wide / math.sqrt(2)))
        x = norm(x + dense(wide, weights, f"{layer}.output.dense"), weights, f"{layer}.output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


def main():
    directory = MINILM.directory
    weights = {name: value.astype(np.float64) for name, value in load_file(directory / "model.safetensors").items()}
    weights["embeddings.position_ids"] = None
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids = [tokenizer.encode(text).ids for text in TEXTS]
    vectors = [[round(float(value), 7) for value in embed(tokens, weights)] for tokens in ids]
    print("tokens:", [len(tokens) for tokens in ids])
    FIXTURE.write_text(
        json.dumps(
            {
                "source": "numpy, 64-bit (serving-image/scripts/reference_embeddings.py)",
                "texts": TEXTS,
                "tokens": [len(tokens) for tokens in ids],
                "vectors": vectors,
            },
            ensure_ascii=False,
        )
        + "\n"
    )
    manifest = json.loads(MINILM.manifest.read_text())
    manifest["golden"] = [{"instance": TEXTS[0], "output": vectors[0], "tolerance": 1e-4}]
    MINILM.manifest.write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main()
