"""Embeddings, by OpenAI's client, tritonclient, and curl as TEI's documentation has it."""

import numpy as np
import openai
import pytest
import tritonclient.http as triton

MODEL = "all-minilm-l6-v2"
TEXTS = ["a cat", "a dog"]


def embed(client, texts=TEXTS, **fields):
    return client.embeddings.create(model=MODEL, input=texts, **fields)


def test_vectors_by_default_and_as_floats_are_the_same(client):
    default = embed(client)  # asks for base64
    floats = embed(client, encoding_format="float")
    for left, right in zip(default.data, floats.data, strict=True):
        assert left.index == right.index
        assert np.allclose(left.embedding, right.embedding, atol=1e-7)
    assert default.usage.total_tokens == 8


def test_one_text(client):
    assert len(embed(client, "a cat").data[0].embedding) == 384


def test_null_is_as_good_as_nothing(client):
    extra = {"encoding_format": None, "dimensions": None, "user": None}
    answer = client.post(
        "/embeddings", body={"input": "a cat", "model": MODEL} | extra, cast_to=object
    )
    assert len(answer["data"][0]["embedding"]) == 384


def test_dimensions_are_the_models(client):
    assert len(embed(client, dimensions=384).data) == 2
    with pytest.raises(openai.BadRequestError) as error:
        embed(client, dimensions=64)
    assert error.value.param == "dimensions"


def test_tokens_are_refused_by_name(client):
    with pytest.raises(openai.BadRequestError) as error:
        embed(client, [[1, 2, 3]])
    assert error.value.param == "input[0]"


def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as error:
        client.embeddings.create(model="text-embedding-3-small", input="a")
    assert error.value.code == "model_not_found"


def test_triton_embeds_texts(address, client):
    with triton.InferenceServerClient(address) as server:
        name = server.get_model_metadata(MODEL)["inputs"][0]["name"]
        tensor = triton.InferInput(name, [2], "BYTES")
        tensor.set_data_from_numpy(np.array(TEXTS, dtype=object))
        answer = server.infer(MODEL, [tensor])
    expected = [one.embedding for one in embed(client).data]
    assert np.allclose(answer.as_numpy("embedding"), expected, atol=1e-6)
    assert list(answer.as_numpy("tokens")) == [4, 4]
    assert list(answer.as_numpy("truncated")) == [False, False]


def test_curl_as_teis_documentation_has_it(curl, client):
    status, vectors = curl("/embed", {"inputs": "a cat"})
    assert status == 200
    assert np.allclose(vectors[0], embed(client, "a cat").data[0].embedding, atol=1e-6)
    status, vectors = curl("/embed", {"inputs": TEXTS, "normalize": True, "truncate": False})
    assert status == 200 and len(vectors) == 2
    status, answer = curl("/embed", {"inputs": TEXTS, "normalize": False})
    assert status == 422 and answer["error_type"] == "Validation"
