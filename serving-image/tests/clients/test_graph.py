"""A table of numbers, categories and missing values behind an ONNX graph, by tritonclient."""

import numpy as np
import tritonclient.http as triton

NAME = "passengers-forest"


def passenger(age, dtype=np.float64):
    tensors = []
    for name, datatype, values in [
        ("age", "FP64", np.array([age], dtype=dtype)),
        ("fare", "FP64", np.array([16.01])),
        ("meal", "BYTES", np.array(["none"], dtype=object)),
        ("port", "BYTES", np.array(["Cherbourg"], dtype=object)),
    ]:
        tensor = triton.InferInput(name, [1], datatype)
        tensor.set_data_from_numpy(values)
        tensors.append(tensor)
    return tensors


def test_triton_sends_texts_and_numbers(address):
    with triton.InferenceServerClient(address) as server:
        answer = server.infer(NAME, passenger(34.0))
        assert np.allclose(answer.as_numpy("probabilities"), [[0.7513277, 0.2486722]], atol=1e-4)


def test_nan_is_a_missing_value(address, curl):
    with triton.InferenceServerClient(address) as server:
        binary = server.infer(NAME, passenger(np.nan)).as_numpy("probabilities")
    instance = {"fare": 16.01, "meal": "none", "port": "Cherbourg"}
    status, answer = curl("/predict", {"instances": [instance]})
    expected = answer["predictions"][0]["probabilities"]
    assert status == 200
    assert np.allclose(binary, [[expected["no"], expected["yes"]]], atol=1e-6)
