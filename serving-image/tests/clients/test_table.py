"""A table of numbers, by tritonclient, kserve and curl."""

import asyncio

import numpy as np
import pytest
import tritonclient.http as triton
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], dtype=np.float32)
LABELS = ["setosa", "virginica"]


@pytest.fixture
def server(address):
    client = triton.InferenceServerClient(address)
    yield client
    client.close()


def table(binary, datatype="FP32", rows=ROWS):
    tensor = triton.InferInput("x", list(rows.shape), datatype)
    tensor.set_data_from_numpy(rows, binary_data=binary)
    return tensor


def test_triton_asks_for_health_and_metadata(server):
    assert server.is_server_live() and server.is_server_ready()
    assert server.is_model_ready("iris") and server.is_model_ready("iris", "1.0.0")
    assert not server.is_model_ready("rose")
    assert "binary_tensor_data" in server.get_server_metadata()["extensions"]
    metadata = server.get_model_metadata("iris")
    assert [one["name"] for one in metadata["outputs"]] == ["label", "probabilities"]


def labels(answer, name="label"):
    return [one.decode() if isinstance(one, bytes) else one for one in answer.as_numpy(name)]


def test_triton_by_default(server):
    answer = server.infer("iris", [table(binary=True)])
    assert labels(answer) == LABELS
    assert answer.as_numpy("probabilities").shape == (2, 3)
    assert np.allclose(answer.as_numpy("probabilities").sum(axis=1), 1, atol=1e-5)


def test_triton_with_json_tensors(server):
    outputs = [triton.InferRequestedOutput("probabilities", binary_data=False)]
    plain = server.infer("iris", [table(binary=False)], outputs=outputs)
    binary = server.infer("iris", [table(binary=True)])
    assert plain.get_response()["outputs"][0]["data"]
    assert np.allclose(plain.as_numpy("probabilities"), binary.as_numpy("probabilities"))


def test_triton_with_each_output_as_it_likes(server):
    outputs = [
        triton.InferRequestedOutput("label", binary_data=False),
        triton.InferRequestedOutput("probabilities", binary_data=True),
    ]
    answer = server.infer("iris", [table(binary=True)], outputs=outputs, request_id="7")
    assert labels(answer) == LABELS
    assert answer.get_output("probabilities")["parameters"]["binary_data_size"] == 24
    assert answer.get_response()["id"] == "7"


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "INT32", "UINT8"])
def test_triton_with_each_type_of_number(server, datatype):
    rows = np.array([[5, 3, 1, 0]], dtype=triton_dtype(datatype))
    answer = server.infer("iris", [table(True, datatype, rows)])
    assert labels(answer) == ["setosa"]


def triton_dtype(datatype):
    from tritonclient.utils import triton_to_np_dtype

    return triton_to_np_dtype(datatype)


def test_triton_with_one_tensor_a_field(server):
    names = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    tensors = []
    for index, name in enumerate(names):
        tensor = triton.InferInput(name, [2], "FP32")
        tensor.set_data_from_numpy(np.ascontiguousarray(ROWS[:, index]))
        tensors.append(tensor)
    assert labels(server.infer("iris", tensors, model_version="1.0.0")) == LABELS


def test_triton_is_told_what_is_wrong(server):
    wrong = ROWS.copy()
    wrong[1, 0] = -1
    with pytest.raises(triton.InferenceServerException, match="a number from 0") as error:
        server.infer("iris", [table(True, rows=wrong)])
    assert error.value.status() == "400"
    wrong[1, 0] = np.nan  # a missing value, of which this model has none
    with pytest.raises(triton.InferenceServerException, match="required"):
        server.infer("iris", [table(True, rows=wrong)])
    with pytest.raises(triton.InferenceServerException, match="classification"):
        outputs = [triton.InferRequestedOutput("probabilities", class_count=2)]
        server.infer("iris", [table(True)], outputs=outputs)
    with pytest.raises(triton.InferenceServerException, match="Served here"):
        server.infer("rose", [table(True)])


def kserve(protocol, use):
    """Runs what `use` does with a client of that protocol."""

    async def run():
        async with InferenceRESTClient(RESTConfig(protocol=protocol)) as client:
            return await use(client)

    return asyncio.run(run())


@pytest.mark.parametrize("binary", [False, True])
def test_kserve_v2(url, binary):
    tensor = InferInput("x", list(ROWS.shape), "FP32")
    tensor.set_data_from_numpy(ROWS, binary_data=binary)
    request = InferRequest("iris", [tensor], request_id="7")

    async def use(client):
        assert await client.is_server_live(url) and await client.is_server_ready(url)
        assert await client.is_model_ready(url, "iris")
        return await client.infer(url, request, model_name="iris")

    answer = kserve("v2", use)
    assert list(answer.outputs[0].as_numpy()) == LABELS
    assert answer.id == "7"


def test_kserve_v2_with_binary_outputs(url):
    tensor = InferInput("x", list(ROWS.shape), "FP32")
    tensor.set_data_from_numpy(ROWS, binary_data=True)
    request = InferRequest("iris", [tensor], parameters={"binary_data_output": True})
    answer = kserve("v2", lambda client: client.infer(url, request, model_name="iris"))
    assert answer.outputs[1].as_numpy().shape == (2, 3)


def test_kserve_v1(url):
    async def use(client):
        assert await client.is_server_live(url)
        assert await client.is_model_ready(url, "iris")
        return await client.infer(url, {"instances": ROWS.tolist()}, model_name="iris")

    answer = kserve("v1", use)
    assert [one["label"] for one in answer["predictions"]] == LABELS


def test_kserve_v1_is_told_what_is_wrong(url):
    import httpx

    with pytest.raises(httpx.HTTPStatusError, match="an array of 4 values"):
        kserve("v1", lambda client: client.infer(url, {"instances": [[1]]}, model_name="iris"))


def test_curl_as_kserves_documentation_has_it(curl):
    status, answer = curl("/v1/models/iris:predict", {"instances": ROWS.tolist()})
    assert status == 200 and answer["predictions"][0]["label"] == "setosa"
    tensor = {"name": "x", "shape": [2, 4], "datatype": "FP32", "data": ROWS.tolist()}
    status, answer = curl("/v2/models/iris/infer", {"inputs": [tensor]})
    assert status == 200 and answer["outputs"][0]["data"] == LABELS


def test_openai_lists_it(client):
    assert [model.id for model in client.models.list()] == ["iris"]
