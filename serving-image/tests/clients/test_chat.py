"""A language model, by OpenAI's client and curl."""

import openai
import pytest

MODEL = "smollm2-135m-instruct"
ASK = [{"role": "user", "content": "What is the capital of France?"}]


def chat(client, messages=ASK, **fields):
    fields = {"model": MODEL, "max_tokens": 8, "temperature": 0} | fields
    return client.chat.completions.create(messages=messages, **fields)


def test_an_answer(client):
    answer = chat(client)
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens <= 8


def test_no_max_tokens(client):
    message = [{"role": "user", "content": "Say yes."}]
    answer = client.chat.completions.create(model=MODEL, messages=message, stop=["."])
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_a_second_turn_with_the_message_that_was_received(client):
    messages = list(ASK)
    messages.append(chat(client).choices[0].message)
    messages.append({"role": "user", "content": "And of Spain?"})
    assert chat(client, messages).choices[0].message.content


def test_a_second_turn_with_the_message_as_a_dictionary(client):
    messages = [*ASK, chat(client).choices[0].message.model_dump()]
    assert chat(client, [*messages, *ASK]).choices[0].message.content


def test_a_stream_with_its_usage(client):
    whole = chat(client).choices[0].message.content
    parts = list(chat(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == whole
    assert parts[-1].usage.completion_tokens <= 8


def test_max_completion_tokens_and_stop(client):
    answer = client.chat.completions.create(model=MODEL, messages=ASK, max_completion_tokens=1)
    assert answer.usage.completion_tokens == 1
    assert answer.choices[0].finish_reason == "length"
    stopped = chat(client, stop=[" "], max_tokens=20)
    assert " " not in stopped.choices[0].message.content


def test_completions(client):
    answer = client.completions.create(model=MODEL, prompt="One, two,", max_tokens=4, temperature=0)
    assert answer.choices[0].text


def test_the_role_developer_is_the_systems(client):
    of = lambda role: chat(client, [{"role": role, "content": "Speak French."}, *ASK])
    assert of("developer").choices[0].message == of("system").choices[0].message


def test_what_changes_nothing_is_ignored_and_named(client):
    named = [{"role": "user", "name": "anna", "content": "Hi"}]
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=named, max_tokens=1, metadata={"team": "a"}, store=False, user="u",
        tools=[], tool_choice="none", service_tier="auto",
    )
    assert raw.parse().choices[0].message
    header = raw.headers["x-ignored-fields"].split(", ")
    assert sorted(header) == ["messages.name", "metadata", "service_tier", "store", "user"]
    assert "x-ignored-fields" not in client.chat.completions.with_raw_response.create(
        model=MODEL, messages=ASK, max_tokens=1
    ).headers


def test_fields_of_other_servers(client):
    extra = {"top_k": 1, "chat_template_kwargs": {"enable_thinking": False}}
    greedy = chat(client).choices[0].message.content
    drawn = chat(client, temperature=1, extra_body=extra).choices[0].message.content
    assert drawn == greedy


def test_models(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "serin"
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("gpt-4")
    assert error.value.code == "model_not_found"


def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as error:
        chat(client, model="gpt-4")
    assert error.value.code == "model_not_found"


@pytest.mark.parametrize(
    "fields, parameter",
    [
        ({"temperature": 3}, "temperature"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "4", "tool_call_id": "1"}]}, "messages[0].role"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"extra_body": {"colour": 1}}, "colour"),
    ],
)
def test_what_would_change_the_answer_is_refused(client, fields, parameter):
    with pytest.raises(openai.BadRequestError) as error:
        chat(client, **fields)
    assert error.value.param == parameter
    assert error.value.type == "invalid_request_error"
    assert error.value.code == "invalid_input"
    assert set(error.value.body) == {"message", "type", "param", "code"}
    assert error.value.status_code == 400


def test_curl_as_openais_documentation_has_it(curl):
    body = {"model": MODEL, "messages": ASK, "max_tokens": 2}
    status, answer = curl("/v1/chat/completions", body, "-H", "Authorization: Bearer none")
    assert status == 200 and answer["object"] == "chat.completion"
    status, answer = curl("/v1/chat/completions", {"model": MODEL})
    assert status == 400 and answer["error"]["param"] == "messages"
