#!/usr/bin/env python3
"""Makes small language models of random weights as GGUF files: one for each family and each
quantisation that is served.

    python3 serving-image/scripts/make_gguf.py [DIRECTORY]

They say nothing sensible, but every bit of every block takes part, and llama.cpp computes the same
files (record_gguf.py). The same files come out on every machine: Python's standard library only,
every seed fixed; their hashes are in tests/fixtures/gguf.json, but for chat/weights.gguf, which
only has requests to answer. DIRECTORY is by default $XDG_CACHE_HOME/serin/models/gguf (~/.cache
where that is unset).
"""

import array
import math
import random
import struct
import sys
from pathlib import Path

from environment import cache

WIDTH, FEED, HEADS, KEY_HEADS, VOCABULARY = 256, 512, 4, 2, 260
ALIGNMENT = 32

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)

# Weights are spread such that a product of a normalised vector is about as large as the vector.
SPREAD = 1 / math.sqrt(WIDTH)


def destination():
    """Where the files lie by default."""
    return cache() / "models/gguf"


# -------------------------------------------------------------------------------------- the formats


def half(number):
    return struct.pack("<e", number)


def blocks(length, write):
    """A writer of blocks that hold `length` weights: `write(random, scale)` makes one, of scales
    that differ."""

    def tensor(source, count):
        return b"".join(write(source, SPREAD * source.uniform(0.7, 1.3)) for _ in range(count // length))

    return tensor


def floats(code, convert):
    """A writer of floats: 256 different ones, which every format below holds exactly enough."""

    def tensor(source, count):
        values = [convert((byte - 127.5) / 74 * SPREAD) for byte in range(256)]
        numbers = array.array(code, (values[byte] for byte in source.randbytes(count)))
        if sys.byteorder == "big":
            numbers.byteswap()
        return numbers.tobytes()

    return tensor


def bits_of_half(number):
    return struct.unpack("<H", half(number))[0]


def upper_bits(number):
    return struct.unpack("<I", struct.pack("<f", number))[0] >> 16


# By name: ggml's number, and who writes it. A block's quants, and the scales within a K-quant's
# block, are any bits; its own scales are such that the weights have the spread above and, where
# there is an offset, a mean of about 0.
FORMATS = {
    "f32": (0, floats("f", float)),
    "f16": (1, floats("H", bits_of_half)),
    "bf16": (30, floats("H", upper_bits)),
    "q4_0": (2, blocks(32, lambda r, s: half(s / 4.6) + r.randbytes(16))),
    "q4_1": (3, blocks(32, lambda r, s: half(s / 4.6) + half(-7.5 * s / 4.6) + r.randbytes(16))),
    "q5_0": (6, blocks(32, lambda r, s: half(s / 9.2) + r.randbytes(20))),
    "q5_1": (7, blocks(32, lambda r, s: half(s / 9.2) + half(-15.5 * s / 9.2) + r.randbytes(20))),
    "q8_0": (8, blocks(32, lambda r, s: half(s / 74) + r.randbytes(32))),
    "q2_k": (10, blocks(256, lambda r, s: r.randbytes(80) + half(s / 13) + half(1.5 * s / 13))),
    "q3_k": (11, blocks(256, lambda r, s: r.randbytes(108) + half(s / 42))),
    "q4_k": (12, blocks(256, lambda r, s: half(s / 260) + half(7.5 * s / 260) + r.randbytes(140))),
    "q5_k": (13, blocks(256, lambda r, s: half(s / 520) + half(15.5 * s / 520) + r.randbytes(172))),
    "q6_k": (14, blocks(256, lambda r, s: r.randbytes(208) + half(s / 1370))),
}
# A format that is not served: its blocks are not even looked at.
REFUSED = {"iq4_nl": (20, blocks(32, lambda r, s: half(s) + r.randbytes(16)))}


# ---------------------------------------------------------------------------------------- the files


def text(value):
    value = value.encode()
    return struct.pack("<Q", len(value)) + value


def value(number):
    """A value of the header behind its type."""
    match number:
        case bool():
            return struct.pack("<I?", 7, number)
        case int():
            return struct.pack("<II", 4, number)
        case float():
            return struct.pack("<If", 6, number)
        case str():
            return struct.pack("<I", 8) + text(number)
        case [int(), *_]:
            return struct.pack("<IIQ", 9, 5, len(number)) + struct.pack(f"<{len(number)}i", *number)
        case _:
            return struct.pack("<IIQ", 9, 8, len(number)) + b"".join(map(text, number))


def vocabulary(bytes=128):
    """Every character of ASCII, and words of two letters: llama.cpp's server tells nothing of
    half a character. Or all 256 bytes, which every text is made of."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = iter(range(256, 512))
    tokens = [chr(byte if byte in shown else next(hidden)) for byte in range(bytes)]  # as in GPT-2
    tokens += [first + second for first in "bcdfghjk" for second in "aeiouyAEIOUYlrnm"][: 256 - bytes]
    tokens += ["th", "the", "<|begin|>", "<|end|>"]
    assert len(tokens) == len(set(tokens)) == VOCABULARY
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 258 + [3, 3],
        "tokenizer.ggml.merges": ["t h", "th e"],
        "tokenizer.ggml.bos_token_id": 258,
        "tokenizer.ggml.eos_token_id": 259,
        "tokenizer.ggml.add_bos_token": False,
    }


class Model:
    """A model's header and tensors, in the order in which they are added."""

    def __init__(self, name, architecture, format="f32", layers=2, head=WIDTH // HEADS, **keys):
        self.random = random.Random(name)
        self.format = format
        self.layers, self.head = layers, head
        shape = {
            "block_count": layers,
            "context_length": 512,
            "embedding_length": WIDTH,
            "feed_forward_length": FEED,
            "attention.head_count": HEADS,
            "attention.head_count_kv": KEY_HEADS,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "rope.freq_base": 10_000.0,
            **{key.replace("__", "."): number for key, number in keys.items()},
        }
        if head != WIDTH // HEADS:
            shape |= {"attention.key_length": head, "attention.value_length": head}
        if architecture == "llama":
            shape |= {"rope.dimension_count": head, "vocab_size": VOCABULARY}
        self.header = {"general.architecture": architecture, "general.name": name}
        self.header |= {f"{architecture}.{key}": number for key, number in shape.items()}
        self.header |= vocabulary()
        self.tensors = []

    def add(self, name, *shape, format=None):
        kind, write = (FORMATS | REFUSED)[format or self.format]
        self.tensors.append((name, shape, kind, write(self.random, math.prod(shape))))

    def around(self, name, length, centre, spread):
        """A vector of 32-bit floats around a number: a norm's weights, or a bias."""
        numbers = [centre + self.random.uniform(-spread, spread) for _ in range(length)]
        self.tensors.append((name, (length,), 0, struct.pack(f"<{length}f", *numbers)))

    def fill(self, untied=False, biases=False, head_norms=False, formats={}):
        """All tensors of a model. `formats` are those of single ones, by the end of their name."""

        def matrix(name, rows, columns):
            own = next((format for end, format in formats.items() if name.endswith(end)), None)
            self.add(f"{name}.weight", rows, columns, format=own)

        matrix("token_embd", VOCABULARY, WIDTH)
        queries, keys = HEADS * self.head, KEY_HEADS * self.head
        for layer in range(self.layers):
            block = f"blk.{layer}."
            self.around(f"{block}attn_norm.weight", WIDTH, 1, 0.3)
            self.around(f"{block}ffn_norm.weight", WIDTH, 1, 0.3)
            for part, outputs in [("attn_q", queries), ("attn_k", keys), ("attn_v", keys)]:
                matrix(block + part, outputs, WIDTH)
                if biases:
                    self.around(f"{block}{part}.bias", outputs, 0, 0.5)
            if head_norms:
                self.around(f"{block}attn_q_norm.weight", self.head, 1.5, 0.5)
                self.around(f"{block}attn_k_norm.weight", self.head, 1.5, 0.5)
            matrix(f"{block}attn_output", WIDTH, queries)
            matrix(f"{block}ffn_gate", FEED, WIDTH)
            matrix(f"{block}ffn_up", FEED, WIDTH)
            matrix(f"{block}ffn_down", WIDTH, FEED)
        self.around("output_norm.weight", WIDTH, 1, 0.3)
        if untied:
            matrix("output", VOCABULARY, WIDTH)
        return self

    def bytes(self):
        header = b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.header))
        for key, number in self.header.items():
            header += text(key) + value(number)
        data = bytearray()
        for name, shape, kind, numbers in self.tensors:
            header += text(name) + struct.pack("<I", len(shape))
            header += struct.pack(f"<{len(shape)}Q", *reversed(shape)) + struct.pack("<IQ", kind, len(data))
            data += numbers + bytes(-len(numbers) % ALIGNMENT)
        return header + bytes(-len(header) % ALIGNMENT) + data


def models():
    """All files, by name. Families have 32-bit weights, so that nothing but the arithmetic is compared."""
    yield "llama", Model("llama", "llama").fill()
    llama_3 = Model("llama-3", "llama", rope__freq_base=500_000.0).fill(untied=True)
    llama_3.around("rope_freqs.weight", llama_3.head // 2, 4.5, 3.5)
    yield "llama-3", llama_3
    scaled = {"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}
    yield "llama-linear", Model("llama-linear", "llama", **scaled).fill()
    yield "qwen2", Model("qwen2", "qwen2").fill(biases=True)
    # Heads that are wider than their share, as in Qwen3-0.6B.
    yield "qwen3", Model("qwen3", "qwen3", head=128, rope__freq_base=1_000_000.0).fill(head_norms=True, untied=True)
    for format in FORMATS:
        if format != "f32":
            yield format, Model(format, "llama", format, layers=1).fill(untied=True)
    # Formats mixed as llama.cpp does for Q4_K_M, and biases on quantised weights.
    mixed = {"attn_v": "q6_k", "ffn_down": "q6_k", "token_embd": "q6_k"}
    yield "q4_k_m", Model("q4_k_m", "qwen2", "q4_k").fill(biases=True, formats=mixed)
    # For requests of every kind: it takes any text, and conversations.
    chat = Model("chat", "llama", "q8_0", layers=1, context_length=8192).fill(untied=True)
    chat.header |= vocabulary(bytes=256) | {"tokenizer.chat_template": CHAT_TEMPLATE}
    yield "chat/weights", chat
    yield "refused-iq4_nl", Model("refused", "llama", layers=1).fill(formats={"ffn_up": "iq4_nl"})


def main():
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else destination()
    directory.mkdir(parents=True, exist_ok=True)
    for name, model in models():
        path = directory / f"{name}.gguf"
        path.parent.mkdir(exist_ok=True)
        made = path.with_suffix(".part")
        made.write_bytes(model.bytes())
        made.rename(path)  # an interrupted run leaves no half of it
    print(f"{directory} is complete")


if __name__ == "__main__":
    main()
