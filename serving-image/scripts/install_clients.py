#!/usr/bin/env python3
"""Installs the clients of `tests/clients`, by its list of pinned packages, into a venv of their own.

    python3 serving-image/scripts/install_clients.py

Prints the path of its Python, below ~/.cache/serin/venvs. Does nothing where it is there.
"""

import fcntl
import hashlib
import os
import pathlib
import subprocess
import sys
import venv

PINNED = pathlib.Path(__file__).parent.parent / "tests/clients/requirements.txt"


def main() -> None:
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    key = hashlib.sha256(PINNED.read_bytes()).hexdigest()[:12]
    home = cache / "serin" / "venvs" / f"clients-{key}"
    python = home / "bin" / "python"
    done = home / "installed"  # written last: a venv without it was interrupted
    home.parent.mkdir(parents=True, exist_ok=True)
    with open(home.with_name(home.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run beside each other
        if not done.exists():
            venv.create(home, with_pip=True, clear=True)
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, "--no-deps", "-r", PINNED], check=True, stdout=sys.stderr)
            done.touch()
    print(python)


if __name__ == "__main__":
    main()
