"""What the benchmarks beside other engines share. Python's standard library only.

Every peer is a process of its own that answers each line of its standard input by one line. In each
round all of them take their turn, so a busy neighbour slows all alike; the ratios of the medians
are what to trust, and on a busy machine those of the CPU time. A turn begins when the peer before
has come to rest: onnxruntime's threads go on spinning after an answer, on the cores of whoever is
next.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path


class Peer:
    def __init__(self, name, command):
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, question):
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended")
        return json.loads(line)

    def resident_megabytes(self):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1000
        return float("nan")

    def cpu_seconds(self):
        """What all its threads have used so far, in ticks of 10 ms."""
        after_name = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")

    def rest(self):
        """Returns when none of its threads has run for three ticks; those that spin do so for
        less than a second."""
        used, until = None, time.monotonic() + 1
        while used != (used := self.cpu_seconds()) and time.monotonic() < until:
            time.sleep(0.03)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def parser(description, example, rounds):
    """The command line that all benchmarks against another engine share."""
    command_line = argparse.ArgumentParser(description=description)
    command_line.add_argument("--serin", help=f"the built example `{example}`")
    command_line.add_argument("--rounds", type=int, default=rounds)
    command_line.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    command_line.add_argument("--peer", help=argparse.SUPPRESS)
    return command_line


def compare(peers, threads, measure, rounds):
    """Measures the peers, after telling on what machine, and ends them."""
    print_machine(threads)
    try:
        measure(peers, rounds)
    finally:
        for peer in peers:
            peer.close()


def answer_lines(answer):
    """A peer's other end: answers every question of standard input."""
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


def in_turns(peers, question, rounds):
    """All answers of each peer, and the CPU seconds of one."""
    answers = [[] for _ in peers]
    used = [-peer.cpu_seconds() for peer in peers]
    for _ in range(rounds):
        for own, peer in zip(answers, peers):
            own.append(peer.ask(question))
            peer.rest()
    return answers, [(before + peer.cpu_seconds()) / rounds for before, peer in zip(used, peers)]


def median(answers, field):
    return statistics.median(answer[field] for answer in answers)


def print_machine(threads):
    """What the figures below hold for."""
    processor, flags = "?", set()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name == "model name":
            processor = value
        if name == "flags":
            flags = set(value.split())
    features = [name for name in ("avx2", "avx512bw", "avx512_vnni", "amx_int8") if name in flags]
    cpus = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    print(f"{processor}, {', '.join(features)}; {cpus} CPUs, {threads} threads a peer, load {load:.1f} before")
