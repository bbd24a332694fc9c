"""A reranker, by curl as Cohere's and TEI's documentation has it, and by tritonclient."""

import numpy as np
import pytest
import tritonclient.http as triton

MODEL = "distilbert-reranking"
QUERY = "Where is the village by the river?"
TEXTS = ["A wonderful film.", "The village is by the river.", "I laughed, I cried."]


@pytest.fixture
def scores(address):
    """By V2, which knows no ranking."""
    tensors = []
    for name, texts in [("text", [QUERY] * 3), ("pair", TEXTS)]:
        tensor = triton.InferInput(name, [3], "BYTES")
        tensor.set_data_from_numpy(np.array(texts, dtype=object))
        tensors.append(tensor)
    with triton.InferenceServerClient(address) as server:
        return server.infer(MODEL, tensors).as_numpy("score")


def test_as_tei_has_it(curl, scores):
    status, answer = curl("/rerank", {"query": QUERY, "texts": TEXTS, "return_text": True})
    assert status == 200
    assert [one["index"] for one in answer] == list(np.argsort(-scores, kind="stable"))
    for one in answer:
        assert one["text"] == TEXTS[one["index"]]
        assert abs(one["score"] - scores[one["index"]]) < 1e-6


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_as_cohere_has_it(curl, scores, path):
    body = {"model": MODEL, "query": QUERY, "documents": TEXTS, "top_n": 2}
    status, answer = curl(path, body)
    assert status == 200
    best = np.argsort(-scores, kind="stable")[:2]
    assert [one["index"] for one in answer["results"]] == list(best)
    assert abs(answer["results"][0]["relevance_score"] - scores.max()) < 1e-6


def test_documents_are_given_back(curl):
    documents = [{"text": TEXTS[0]}, TEXTS[1]]
    body = {"query": QUERY, "documents": documents, "return_documents": True}
    status, answer = curl("/v1/rerank", body)
    assert status == 200
    assert {one["document"]["text"] for one in answer["results"]} == set(TEXTS[:2])


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"query": None}, "/query"),
        ({"texts": ["a", 7]}, "/texts/1"),
        ({"texts": []}, "/texts"),
        ({"raw_scores": True}, "/raw_scores"),
        ({"top_n": 0}, "/top_n"),
        ({"colour": 1}, "/colour"),
    ],
)
def test_what_is_wrong_is_named(curl, wrong, named):
    status, answer = curl("/rerank", {"query": QUERY, "texts": TEXTS} | wrong)
    assert status == 422 and named in answer["error"]
    assert answer["message"] == answer["error"] and answer["error_type"] == "Validation"
