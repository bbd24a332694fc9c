#!/usr/bin/env python3
"""Makes small encoders of BERT's relatives with random weights, and records what transformers
computes with them.

    python3 serving-image/scripts/record_encoders.py

Writes serving-image/tests/models/FAMILY-TASK (an artefact below 100 KB: every parameter is random,
also those that a new model has at 0 or 1; the tokeniser is trained on the lines below) and
serving-image/tests/fixtures/FAMILY-TASK.json (texts and their outputs in 64-bit floats), to which
tests/reference holds the server within the fixture's tolerance. tokenizers orders what a WordPiece
vocabulary has equally often as it comes: each run makes another one of DistilBERT's.
"""

import json

import environment

environment.enter("numpy==2.4.6", "sentence-transformers==6.2.0", "torch==2.15.0")  # brings transformers along

import torch
import transformers
from artefacts import SERVING, write_manifest
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

MODELS = SERVING / "tests/models"
FIXTURES = SERVING / "tests/fixtures"
HIDDEN, WIDE, HEADS, LAYERS, MAX_TOKENS, VOCABULARY = 16, 40, 2, 2, 100, 120
LABELS = ["bad", "fine", "neither"]
TOLERANCE = 1e-5
LINES = [
    "A wonderful film: I laughed, I cried, and I would see it again tomorrow.",
    "The battery died within a week and the shop refused to take it back.",
    "Works exactly as described, and the picture is superb!",
    "Where is the village by the river, and how old is the bridge?",
    "The bridge by the village was built of stone two hundred years ago.",
    "Grüße aus Köln: naïve, but charming.",
]
SINGLE = [*LINES, "ok", "…", "Never  seen words, 東京 🙂 and <pad> or [PAD] in a text", "the " * 18 + "end"]
PAIRS = [(first, second) for first in SINGLE[3:5] for second in SINGLE[:5]] + [("a", "b"), ("how old?", "the " * 10)]


# ----------------------------------------------------------------------------------- the tokenisers


def trained(tokenizer, trainer):
    tokenizer.train_from_iterator(LINES * 4, trainer)
    return tokenizer


def template(tokenizer, single, pair, *names):
    special = [(name, tokenizer.token_to_id(name)) for name in names]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)


def word_piece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trained(tokenizer, trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False))
    tokenizer.post_processor = template(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", "[CLS]", "[SEP]")
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def byte_pairs():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=2 * VOCABULARY + 80,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained(tokenizer, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def unigrams():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    trained(tokenizer, trainer)
    pair = "<s> $A </s> </s> $B </s>"
    tokenizer.post_processor = template(tokenizer, "<s> $A </s>", pair, "<s>", "</s>")
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


# --------------------------------------------------------------------------------------- the models

SIZES = {
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
}
# RoBERTa's positions begin behind the padding token, which is 1.
BEHIND_PADDING = {**SIZES, "max_position_embeddings": MAX_TOKENS + 2, "pad_token_id": 1, "type_vocab_size": 1}
FAMILIES = {
    "distilbert": (
        "DistilBert",
        {"dim": HIDDEN, "hidden_dim": WIDE, "n_heads": HEADS, "n_layers": LAYERS, "max_position_embeddings": MAX_TOKENS},
        word_piece,
    ),
    "roberta": ("Roberta", {**BEHIND_PADDING, "layer_norm_eps": 1e-5}, byte_pairs),
    "xlm-roberta": ("XLMRoberta", {**BEHIND_PADDING, "layer_norm_eps": 1e-5}, unigrams),
}
# Kind, task, the class in transformers, what the manifest says of the network and of the outputs.
TASKS = {
    "embedding": ("text", "sentence-embedding", "Model", {"pooling": "mean"}, {"dimensions": HIDDEN}),
    "classification": ("text", "classification", "ForSequenceClassification", {"head": "classifier"}, {"labels": LABELS}),
    "reranking": ("text-pair", "reranking", "ForSequenceClassification", {"head": "classifier"}, {}),
}


@torch.no_grad()
def random_model(family, task, tokenizer):
    name, sizes, _ = FAMILIES[family]
    labels = len(LABELS) if task == "classification" else 1
    config = getattr(transformers, f"{name}Config")(vocab_size=tokenizer.get_vocab_size(), num_labels=labels, **sizes)
    model = getattr(transformers, f"{name}{TASKS[task][2]}")(config).eval()
    for parameter, values in model.named_parameters():
        values.normal_(0, 0.3)
        if "layer_norm.weight" in parameter.lower() or "layernorm.weight" in parameter.lower():
            values += 1
    return model


@torch.no_grad()
def output(model, task, ids):
    """What the server is to answer, in 64-bit floats. Of token types RoBERTa's tokenisers tell nothing."""
    found = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)))
    match task:
        case "embedding":
            values = torch.nn.functional.normalize(found.last_hidden_state[0].mean(0), dim=0)
        case "classification":
            values = torch.softmax(found.logits[0], 0)
        case "reranking":
            values = torch.sigmoid(found.logits[0])
    return [round(value, 8) for value in values.tolist()]


def record(family, task):
    kind, task_name, _, network, outputs = TASKS[task]
    tokenizer = FAMILIES[family][2]()
    model = random_model(family, task, tokenizer)
    name = f"{family}-{task}"
    directory = MODELS / name
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    model.config.to_json_file(directory / "config.json")
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)

    examples = SINGLE if kind == "text" else PAIRS
    double = model.double()
    texts = ["text"] if kind == "text" else ["text", "pair"]
    instances = examples if kind == "text" else [dict(zip(texts, pair)) for pair in examples]
    encoded = [tokenizer.encode(*([example] if kind == "text" else example)).ids for example in examples]
    rows = [output(double, task, ids) for ids in encoded]
    longest = max(map(len, encoded))
    assert longest <= MAX_TOKENS, f"{name}: {longest} tokens"
    manifest = {
        "schemaVersion": 1,
        "name": name,
        "version": "1.0.0",
        "description": f"Random weights of {FAMILIES[family][0]}.",
        "licence": "CC0-1.0",
        "kind": kind,
        "task": task_name,
        "inputs": [{"name": text, "type": "string"} for text in texts],
        "preprocessing": [{"step": "tokenize", "tokenizer": "tokenizer.json", "maxTokens": MAX_TOKENS}],
        "network": {"architecture": "bert", "config": "config.json", "weights": "model.safetensors", **network},
        "outputs": outputs,
        "golden": [{"instance": instances[0], "output": rows[0], "tolerance": 1e-4}],
    }
    write_manifest(directory, manifest)
    fixture = {
        "source": f"transformers {transformers.__version__}",
        "tolerance": TOLERANCE,
        "instances": instances,
        "outputs": rows,
    }
    (FIXTURES / f"{name}.json").write_text(json.dumps(fixture, ensure_ascii=False) + "\n")
    size = sum(path.stat().st_size for path in directory.iterdir())
    print(f"{name}: {len(rows)} outputs, at most {longest} tokens; {size / 1000:.0f} KB")


if __name__ == "__main__":
    torch.manual_seed(5)
    for family in FAMILIES:
        for task in TASKS:
            record(family, task)
