#!/usr/bin/env python3
"""Records what llama.cpp computes of the files of make_gguf.py, as tests/fixtures/gguf.json.

    python3 serving-image/scripts/record_gguf.py

For each file its sha256, the tokens of a text, and for the two tokens that follow the likeliest
ones with their log probabilities. llama.cpp comes as the PyPI package xllamacpp, into a virtual
environment. It keeps keys and values in 32-bit floats here, as serin-serve does; by default it
rounds them to 16.
"""

import json
import urllib.request

from artefacts import SERVING, sha256
from environment import enter
from make_gguf import REFUSED, VOCABULARY, destination, main as make_files

PACKAGES = ["xllamacpp==2026.10.11549"]
FIXTURE = SERVING / "tests/fixtures/gguf.json"
BEST = 40
# The characters of a text are their own tokens; later positions turn further, and the second token
# looks back at the first.
PROMPT = "the quick brown fox jumps over the lazy dog, 0123456789 times"


def start(path):
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx = 512
    parameters.n_parallel = 1
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.warmup = False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(parameters)


def post(server, path, body):
    request = urllib.request.Request(
        server.listening_address + path, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    return json.load(urllib.request.urlopen(request))


def record(path):
    server = start(path)
    tokens = post(server, "/tokenize", {"content": PROMPT, "add_special": True})["tokens"]
    body = {"prompt": tokens, "n_predict": 2, "temperature": 0, "n_probs": VOCABULARY, "cache_prompt": False}
    body["samplers"] = ["temperature"]
    answer = post(server, "/completion", body)
    steps = []
    for step in answer["completion_probabilities"]:
        best = [[one["id"], round(one["logprob"], 4)] for one in step["top_logprobs"]]
        assert len(best) == VOCABULARY and best[0][0] == step["id"], (len(best), best[:2], step["id"])
        steps.append(best[:BEST])
    assert len(steps) == 2, f"{path} ends its text: give it another seed"
    return {"file": path.name, "sha256": sha256(path), "tokens": tokens, "steps": steps}


def main():
    make_files()
    files = sorted(destination().glob("*.gguf"))
    refused = [f"refused-{name}" for name in REFUSED]
    rows = [json.dumps(record(path)) for path in files if path.stem not in refused]
    rows += [json.dumps({"file": f"{name}.gguf", "sha256": sha256(destination() / f"{name}.gguf")}) for name in refused]
    head = json.dumps(PACKAGES)
    FIXTURE.write_text(f'{{"reference": {head},\n"files": [\n' + ",\n".join(rows) + "\n]}\n")
    print(f"recorded {FIXTURE}")


if __name__ == "__main__":
    enter(*PACKAGES)
    main()
