"""The server under test, and the clients of it that several files use."""

import json
import os
import subprocess

import openai
import pytest

ADDRESS = os.environ["SERIN_ADDRESS"]
URL = f"http://{ADDRESS}"


@pytest.fixture
def address():
    return ADDRESS


@pytest.fixture
def url():
    return URL


@pytest.fixture
def client():
    """OpenAI's, as its documentation has it, without its retries: they would hide a failure."""
    with openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def curl():
    """Sends JSON with curl; gives the status and the body."""

    def send(path, body, *arguments):
        command = ["curl", "-s", "-w", "\n%{http_code}", URL + path]
        command += ["-H", "Content-Type: application/json", "-d", json.dumps(body), *arguments]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        answer, status = printed.rsplit("\n", 1)
        return int(status), json.loads(answer)

    return send
