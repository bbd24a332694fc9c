"""A classifier of texts, by tritonclient, kserve and curl."""

import asyncio

import numpy as np
import tritonclient.http as triton
from kserve import InferenceRESTClient, RESTConfig

MODEL = "distilbert-classification"
TEXT = "A wonderful film: I laughed, I cried, and I would see it again tomorrow."


def test_triton(address):
    tensor = triton.InferInput("text", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[TEXT]], dtype=object))
    with triton.InferenceServerClient(address) as server:
        answer = server.infer(MODEL, [tensor])
    assert answer.as_numpy("label")[0] == b"neither"
    expected = [[0.22405581, 0.03658695, 0.73935724]]
    assert np.allclose(answer.as_numpy("probabilities"), expected, atol=1e-4)


def test_kserve_v1(url):
    async def run():
        async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
            return await client.infer(url, {"instances": [TEXT]}, model_name=MODEL)

    assert asyncio.run(run())["predictions"][0]["label"] == "neither"


def test_curl(curl):
    status, answer = curl(f"/v1/models/{MODEL}:predict", {"instances": [TEXT]})
    assert status == 200 and answer["predictions"][0]["label"] == "neither"
