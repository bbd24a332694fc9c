#!/usr/bin/env python3
"""Records what SmolLM2-135M-Instruct computes elsewhere, as
tests/fixtures/smollm2-135m-instruct.json.

    python3 serving-image/scripts/fetch_smollm2.py
    python3 serving-image/scripts/reference_smollm2.py

From llama.cpp, which comes as the PyPI package xllamacpp: the tokens of texts, the prompts of
conversations, and how the likeliest texts go on, each token with its margin: by how much its log
probability is above that of the next best one. From numpy, which computes the same weights in
64-bit floats without any rounding: the scores of the tokens that may follow a prompt. The packages
go into a virtual environment under ~/.cache/serin.
"""

import functools
import json
import struct
import subprocess
import sys
import urllib.request
import venv
from pathlib import Path

from fetch_smollm2 import SMOLLM2

PACKAGES = ["xllamacpp==2026.10.11549", "numpy==2.4.6"]
FIXTURE = Path(__file__).resolve().parents[1] / "tests/fixtures/smollm2-135m-instruct.json"

TEXTS = [
    "The capital of France is",
    "Hello, world!",
    "It's 2026, and 1234567 people don't know I'd've said so.",
    "  two spaces,\ttab,\n\nnewlines   \n and trailing  ",
    "Grüße aus Zürich, naïve café — “quoted” … 中文字符 и русский текст",
    "🦜🦀 emoji and a flag 🇫🇷, e\u0301 composed",
    "def f(x):\n    return x ** 2  # comment\n\nprint(f(3.14e-10))",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "a<|endoftext|>b <file_sep> c",
    "x" * 60,
    "CamelCaseIdentifier snake_case_identifier SCREAMING_CASE kebab-case",
    "¹²³ ½ Ⅷ ٣٤٥ 𝟘𝟙",
]

CONVERSATIONS = [
    [{"role": "user", "content": "What is 2 + 2?"}],
    [
        {"role": "system", "content": "You speak like a pirate."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Arr!"},
        {"role": "user", "content": "Who are you?"},
    ],
]

PROMPTS = [
    "The capital of France is",
    "Once upon a time",
    "def fibonacci(n):",
    "Water boils at",
    "The three primary colors are",
]
LENGTH = 24


def environment():
    """A Python that has llama.cpp."""
    directory = Path.home() / ".cache/serin/llama.cpp"
    python = directory / "bin/python"
    if not python.exists():
        venv.create(directory, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES], check=True)
    return python


def read_gguf(path):
    """All tensors as 64-bit floats, by name. The shape of the model is known here; only tensors
    are kept."""
    import numpy as np

    data = path.read_bytes()
    place = 4 + 4

    def number(format):
        nonlocal place
        [value] = struct.unpack_from("<" + format, data, place)
        place += struct.calcsize(format)
        return value

    def text():
        nonlocal place
        length = number("Q")
        place += length
        return data[place - length : place].decode()

    def value(kind):
        if kind == 8:
            return text()
        if kind == 9:
            kind, length = number("I"), number("Q")
            return [value(kind) for _ in range(length)]
        return number({0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}[kind])

    count, entries = number("Q"), number("Q")
    for _ in range(entries):
        text()
        value(number("I"))
    infos = []
    for _ in range(count):
        name, dimensions = text(), number("I")
        infos.append((name, [number("Q") for _ in range(dimensions)][::-1], number("I"), number("Q")))
    start = (place + 31) // 32 * 32

    def tensor(shape, kind, offset):
        elements = int(np.prod(shape))
        blocks = elements // 32
        at = start + offset
        if kind == 0:
            return np.frombuffer(data, "<f4", elements, at).astype(np.float64).reshape(shape)
        if kind == 3:  # Q4_1: scale, offset, 32 nibbles
            raw = np.frombuffer(data, np.uint8, blocks * 20, at).reshape(blocks, 20)
            numbers = raw[:, :4].copy().view("<f2").astype(np.float64)
            nibbles = np.concatenate([raw[:, 4:] & 15, raw[:, 4:] >> 4], axis=1)
            return (nibbles * numbers[:, :1] + numbers[:, 1:]).reshape(shape)
        assert kind == 8  # Q8_0: scale, 32 signed bytes
        raw = np.frombuffer(data, np.uint8, blocks * 34, at).reshape(blocks, 34)
        scale = raw[:, :2].copy().view("<f2").astype(np.float64)
        return (raw[:, 2:].copy().view(np.int8) * scale).reshape(shape)

    return {name: tensor(shape, kind, offset) for name, shape, kind, offset in infos}


@functools.cache
def tensors(path):
    return read_gguf(path)


def best_scores(path, ids, count=20):
    """The highest scores of what follows these tokens: [[token, score], …]."""
    import numpy as np

    weights = tensors(path)
    layers, heads, key_heads, width, base, epsilon = 30, 9, 3, 64, 100_000.0, 1e-5

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weights[name]

    positions = np.arange(len(ids))
    angles = positions[:, None, None] * base ** (-np.arange(0, width, 2) / width)

    def turn(x):
        first, second = x[..., 0::2], x[..., 1::2]
        turned = np.empty_like(x)
        turned[..., 0::2] = first * np.cos(angles) - second * np.sin(angles)
        turned[..., 1::2] = first * np.sin(angles) + second * np.cos(angles)
        return turned

    state = weights["token_embd.weight"][ids]
    future = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
    for layer in range(layers):
        block = f"blk.{layer}."
        x = norm(state, block + "attn_norm.weight")
        q = turn((x @ weights[block + "attn_q.weight"].T).reshape(-1, heads, width))
        k = turn((x @ weights[block + "attn_k.weight"].T).reshape(-1, key_heads, width))
        v = (x @ weights[block + "attn_v.weight"].T).reshape(-1, key_heads, width)
        k, v = (np.repeat(part, heads // key_heads, axis=1) for part in (k, v))
        likeness = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(width) + future
        shares = np.exp(likeness - likeness.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        seen = np.einsum("hqk,khd->qhd", shares, v).reshape(len(ids), -1)
        state = state + seen @ weights[block + "attn_output.weight"].T
        x = norm(state, block + "ffn_norm.weight")
        gate = x @ weights[block + "ffn_gate.weight"].T
        inner = gate / (1 + np.exp(-gate)) * (x @ weights[block + "ffn_up.weight"].T)
        state = state + inner @ weights[block + "ffn_down.weight"].T
    scores = weights["token_embd.weight"] @ norm(state[-1], "output_norm.weight")
    best = np.argsort(-scores)[:count]
    return [[int(token), round(float(scores[token]), 4)] for token in best]


def record():
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    [weights] = SMOLLM2.directory.glob("*.gguf")
    parameters.model.path = str(weights)
    parameters.n_ctx = 2048
    parameters.n_parallel = 1
    # One thread: with more, llama.cpp's threads wait for each other by spinning, which takes
    # minutes on a busy machine.
    parameters.cpuparams.n_threads = 1
    parameters.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(parameters)

    def post(path, body):
        request = urllib.request.Request(
            server.listening_address + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        return json.load(urllib.request.urlopen(request))

    def tokens(text):
        return post("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]

    def greedy(prompt):
        body = {"prompt": prompt, "max_tokens": LENGTH, "temperature": 0, "logprobs": 2, "cache_prompt": False}
        steps = post("/v1/completions", body)["choices"][0]["logprobs"]["content"]
        best = [[candidate["logprob"] for candidate in step["top_logprobs"]] for step in steps]
        return [[step["token"], round(first - second, 3)] for step, (first, second) in zip(steps, best)]

    def templated(messages):
        return post("/apply-template", {"messages": messages})["prompt"]

    recorded = {
        "tokens": [{"text": text, "ids": tokens(text)} for text in TEXTS],
        "conversations": [{"messages": messages, "prompt": templated(messages)} for messages in CONVERSATIONS],
        "greedy": [{"prompt": prompt, "steps": greedy(prompt)} for prompt in PROMPTS],
        "scores": [{"prompt": prompt, "best": best_scores(weights, tokens(prompt))} for prompt in PROMPTS],
    }
    lines = [f'{{"reference": {json.dumps(PACKAGES)}']
    for name, records in recorded.items():
        rows = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
        lines.append(f",\n{json.dumps(name)}: [\n{rows}\n]")
    FIXTURE.write_text("".join(lines) + "}\n")


if __name__ == "__main__":
    if "record" in sys.argv:
        record()
    else:
        subprocess.run([environment(), __file__, "record"], check=True)
        print(f"recorded {FIXTURE}")
