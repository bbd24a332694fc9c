"""Runs a script in a virtual environment of its own, with the packages that it was written against.

`enter(...)` at the head of a script makes the environment under ~/.cache/serin/venvs on the first
run, and starts the script anew inside. Nothing but Python 3 with venv and pip is needed beforehand.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path


def cache():
    """Where this project keeps what it downloads."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "serin"


def home(packages):
    """Where the environment of these packages lies."""
    key = hashlib.sha256("\n".join(packages).encode()).hexdigest()[:12]
    return cache() / "venvs" / key


def install(*packages):
    """The Python of an environment that holds exactly these packages, each with its version."""
    directory = home(packages)
    python = str(directory / "bin/python")
    done = directory / "complete"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", directory], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        print(f"installing {', '.join(packages)} into {directory}", flush=True)
        subprocess.run([*pip, *packages], check=True)
        done.touch()
    return python


def enter(*packages):
    """Re-runs the script in an environment with exactly these packages, each with its version."""
    if Path(sys.prefix).resolve() == home(packages).resolve():
        return
    python = install(*packages)
    os.environ["PYTHONHASHSEED"] = "0"  # what iterates over a set writes the same file every time
    os.execv(python, [python, *sys.argv])
