#!/usr/bin/env python3
"""Times SmolLM2-135M-Instruct in 4 bits: serin-serve beside llama.cpp, the same GGUF file, the same
threads.

    cargo xtask bench serve        # builds, then runs this

Both read the same prompt and write the likeliest text, alone and without a cache of earlier
prompts. Reading and writing are measured apart: the seconds until the first token, and from there
to the last. llama.cpp is the PyPI package xllamacpp, asked through its server in the same process,
whose own clock is taken (that of its engine, without HTTP). The texts may part at a near tie: both
round vectors to 8 bits, at other places.
"""

import json
import os
import sys
import urllib.request

from bench import Peer, answer_lines, compare, in_turns, median, parser
from environment import enter
from fetch_smollm2 import SMOLLM2

PACKAGES = ["xllamacpp==2026.10.11549"]
PROMPT = "The history of the city begins with a small village by the river. " * 18
TOKENS = 96


def serve_peer(threads):
    """llama.cpp behind the questions and answers of the example `generate`."""
    import xllamacpp

    [weights] = SMOLLM2.directory.glob("*.gguf")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(weights)
    parameters.n_ctx = 2048
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(parameters)

    def answer(question):
        body = {
            "prompt": question["prompt"],
            "n_predict": question["max_tokens"],
            "temperature": 0,
            "cache_prompt": False,
        }
        request = urllib.request.Request(
            server.listening_address + "/completion", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        answer = json.load(urllib.request.urlopen(request))
        timings = answer["timings"]
        return {
            "prompt_tokens": timings["prompt_n"],
            "prompt_seconds": timings["prompt_ms"] / 1e3,
            "tokens": timings["predicted_n"],
            "text_seconds": timings["predicted_ms"] / 1e3,
            "text": answer["content"],
        }

    answer_lines(answer)


def measure(peers, rounds):
    question = {"prompt": PROMPT, "max_tokens": TOKENS}
    warm = [peer.ask(question) for peer in peers]
    for peer, answer in zip(peers, warm):
        if (answer["prompt_tokens"], answer["tokens"]) != (warm[0]["prompt_tokens"], TOKENS):
            sys.exit(f"{peer.name} reads or writes another number of tokens: {answer}")
    same = os.path.commonprefix([answer["text"] for answer in warm])
    print(f"the first {len(same)} of {len(warm[0]['text'])} characters are the same")
    answers, used = in_turns(peers, question, rounds)
    for name, count, seconds in [
        ("read", "prompt_tokens", "prompt_seconds"),
        ("written", "tokens", "text_seconds"),
    ]:
        # The first token is there when the prompt is read.
        tokens = warm[0][count] - (1 if name == "written" else 0)
        rates = [tokens / median(own, seconds) for own in answers]
        for peer, own, rate in zip(peers, answers, rates):
            best = tokens / min(answer[seconds] for answer in own)
            print(
                f"{warm[0][count]:>4} tokens {name:<8} {peer.name:<12} median {rate:>7.1f}/s, best {best:>7.1f}/s;"
                f" serin-serve is {rates[0] / rate:.2f} × as fast as this"
            )
    for peer, cpu in zip(peers, used):
        resident = peer.resident_megabytes()
        print(f"both together        {peer.name:<12} CPU {cpu:>5.2f} s, {resident:>4.0f} MB resident")


def main():
    arguments = parser(__doc__.splitlines()[0], "generate", rounds=10).parse_args()
    enter(*PACKAGES)
    if arguments.peer:
        return serve_peer(arguments.threads)
    threads = str(arguments.threads)
    peers = [
        Peer("serin-serve", [arguments.serin, str(SMOLLM2.directory), threads]),
        Peer("llama.cpp", [sys.executable, __file__, "--peer", "llama.cpp", "--threads", threads]),
    ]
    compare(peers, threads, measure, arguments.rounds)


if __name__ == "__main__":
    main()
