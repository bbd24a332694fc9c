#!/usr/bin/env python3
"""Loads Iris over HTTP: serin-serve beside FastAPI + uvicorn + scikit-learn, the same model and the
same request.

    cargo xtask bench serve-http        # builds, then runs this

Both validate every field's type and range, count requests by code and time them for Prometheus, and
write a log line a request. In each round all of them take their turn, so a busy neighbour slows all
alike: trust the ratios of the medians. wrk (of Debian, installed where it is missing) keeps 1 or 16
connections busy on the same cores.

A round trip on one connection is mostly the kernel's: two threads that wake each other. So two
servers that do nothing take their turn, too (examples/floor.rs): what they take is no server's to
save. CPU time a request is of the server alone, user and system, and does not depend on who else
runs.

Where a core falls asleep between two requests, and a virtual machine has to be woken by its host,
that takes longer than the request. With --awake a thread a core keeps them awake, at the lowest
priority there is (SCHED_IDLE).
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = [
    "fastapi==0.165.0",
    "uvicorn[standard]==0.54.0",
    "scikit-learn==1.9.1",
    "prometheus-client==0.26.0",
]
FIELDS = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
FLOWER = dict(zip(FIELDS, [5.1, 3.5, 1.4, 0.2]))
CONNECTIONS = [1, 16]
PEER = "fastapi"
TICKS = os.sysconf("SC_CLK_TCK")


def create_app():
    """The peer, as its own documentation would have it, without a step that is not needed."""
    import prometheus_client
    from fastapi import FastAPI, Response
    from pydantic import BaseModel, ConfigDict, Field
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    iris = load_iris()
    # As train_iris.py has it.
    x_train, _, y_train, _ = train_test_split(
        iris.data, iris.target, test_size=0.2, stratify=iris.target, random_state=7
    )
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x_train, y_train)
    labels = [str(name) for name in iris.target_names]

    class Flower(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)
        sepal_length: float = Field(ge=0, le=30)
        sepal_width: float = Field(ge=0, le=30)
        petal_length: float = Field(ge=0, le=30)
        petal_width: float = Field(ge=0, le=30)

    class Request(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)
        instances: list[Flower] = Field(min_length=1, max_length=1024)

    requests = prometheus_client.Counter("model_requests", "by code", ["code"]).labels("200")
    duration = prometheus_client.Histogram("model_request_duration_seconds", "time")
    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request):
        with duration.time():
            rows = [[getattr(flower, field) for field in FIELDS] for flower in request.instances]
            predictions = []
            for row in model.predict_proba(rows).tolist():
                named = dict(zip(labels, row))
                predictions.append({"label": max(named, key=named.get), "probabilities": named})
            requests.inc()
            return {"model": "iris", "model_version": "1.0.0", "predictions": predictions}

    @app.get("/readyz")
    async def ready():
        return "ok"

    @app.get("/metrics")
    async def metrics():
        return Response(prometheus_client.generate_latest())

    return app


# ---------------------------------------------------------------------------------------- the bench


def wrk() -> str:
    if not shutil.which("wrk"):
        subprocess.run(["apt-get", "install", "--yes", "--quiet", "wrk"], check=True, stdout=sys.stderr)
    return "wrk"


class Server:
    """A server on a free port, with its log in a file as in production."""

    def __init__(self, name: str, command: list, folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.name, self.url = name, f"http://127.0.0.1:{port}"
        command = [str(part).replace("PORT", str(port)) for part in command]
        self.log = open(folder / f"{name}.log", "wb")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, start_new_session=True)
        deadline = time.monotonic() + 60
        while True:
            try:
                return urllib.request.urlopen(f"{self.url}/readyz").close()
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise SystemExit(f"{name} does not get ready; see {self.log.name}")
                time.sleep(0.05)

    def predict(self) -> dict:
        body = json.dumps({"instances": [FLOWER]}).encode()
        request = urllib.request.Request(f"{self.url}/predict", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request) as response:
            return json.load(response)["predictions"][0]

    def load(self, connections: int, seconds: float, script: Path) -> tuple:
        """Requests a second, the 50th and 99th percentile and the server's CPU time a request in
        microseconds."""
        command = [wrk(), "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script, f"{self.url}/predict"]
        before = self.cpu_seconds()
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        used = self.cpu_seconds() - before
        if "Non-2xx" in output or "Socket errors" in output:
            raise SystemExit(f"{self.name} failed under load:\n{output}")
        rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])
        requests = int(re.search(r"(\d+) requests in", output)[1])

        def percentile(which):
            number, unit = re.search(rf"\s{which}%\s+([\d.]+)(us|ms|s)", output).groups()
            return float(number) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]

        return rate, percentile(50), percentile(99), used / requests * 1e6

    def pids(self) -> list:
        """All its processes."""
        found = [self.process.pid]
        for pid in found:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, children.read_text().split())
        return found

    def cpu_seconds(self) -> float:
        fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self.pids())
        return sum(int(field[11]) + int(field[12]) for field in fields) / TICKS

    def resident(self) -> float:
        """MB of all its processes."""
        statuses = (Path(f"/proc/{pid}/status").read_text() for pid in self.pids())
        return sum(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) for status in statuses) * 1024 / 1e6

    def stop(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def awake() -> list:
    """A process for each core that keeps it from sleeping, and gives way to every other one."""
    spin = "import os\nos.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile True: pass"
    return [subprocess.Popen([sys.executable, "-c", spin]) for _ in os.sched_getaffinity(0)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", type=Path, required=True, help="serin-serve")
    parser.add_argument("--floor", type=Path, required=True, help="the example floor")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each turn")
    parser.add_argument("--awake", action="store_true", help="keep the cores from sleeping between two requests")
    arguments = parser.parse_args()
    uvicorn = [sys.executable, "-m", "uvicorn", "--factory", "bench_http:create_app", "--port", "PORT"]
    uvicorn += ["--app-dir", Path(__file__).parent]
    serin = [arguments.binary, "serve", "--address", "127.0.0.1:PORT", "--model-dir"]
    serin += [REPOSITORY / "examples/models/iris/1.0.0"]
    servers, spinning = [], []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        script = folder / "post.lua"
        body = json.dumps({"instances": [FLOWER]})
        script.write_text(
            f"wrk.method = 'POST'\nwrk.body = '{body}'\nwrk.headers['Content-Type'] = 'application/json'\n"
        )
        try:
            servers.append(Server("serin-serve", serin, folder))
            servers.append(Server(PEER, uvicorn, folder))
            servers.append(Server(f"{PEER}-2-workers", [*uvicorn, "--workers", "2"], folder))
            compare(servers)
            for kind in ["hyper", "sockets"]:
                servers.append(Server(f"floor-{kind}", [arguments.floor, kind, "127.0.0.1:PORT"], folder))
            if arguments.awake:
                spinning = awake()
            measured = {}
            for server in servers:  # a turn that does not count
                server.load(16, 1, script)
            for _ in range(arguments.rounds):
                for connections in CONNECTIONS:
                    for server in servers:
                        turn = server.load(connections, arguments.seconds, script)
                        measured.setdefault((connections, server.name), []).append(turn)
            report(servers, measured, arguments)
        finally:
            for spinner in spinning:
                spinner.kill()
            for server in servers:
                server.stop()


def compare(servers):
    """The same model answers, or there is nothing to compare."""
    expected, *answers = [server.predict() for server in servers]
    for answer in answers:
        assert answer["label"] == expected["label"]
        for label, probability in answer["probabilities"].items():
            assert abs(probability - expected["probabilities"][label]) < 1e-5, (answer, expected)


def report(servers, measured, arguments):
    how = "kept awake" if arguments.awake else "free to sleep"
    cores = len(os.sched_getaffinity(0))
    print(f"medians of {arguments.rounds} turns of {arguments.seconds} s; {cores} cores, shared with wrk, {how}\n")
    print("| server | connections | requests/s | p50 µs | p99 µs | CPU µs a request | RSS MB ", end="")
    print(f"| requests/s to {PEER} | p50 | CPU |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for connections in CONNECTIONS:
        medians = {
            server.name: [statistics.median(column) for column in zip(*measured[connections, server.name])]
            for server in servers
        }
        peer = medians[PEER]
        for server in servers:
            rate, p50, p99, cpu = medians[server.name]
            print(
                f"| {server.name} | {connections} | {rate:,.0f} | {p50:,.0f} | {p99:,.0f} | {cpu:.1f} "
                f"| {server.resident():.0f} | {rate / peer[0]:.1f} × | {p50 / peer[1]:.3f} × | {cpu / peer[3]:.3f} × |"
            )


if __name__ == "__main__":
    from environment import enter

    enter(*PACKAGES)
    main()
