#!/usr/bin/env python3
"""Installs schemathesis, which tests a server against its OpenAPI document, into a venv of its own.

    python3 serving-image/scripts/install_schemathesis.py

Prints the program's path: ~/.cache/serin/venvs/schemathesis-VERSION/bin/schemathesis. Does nothing
where it is there.
"""

import fcntl
import os
import pathlib
import subprocess
import sys
import venv

VERSION = "4.32.5"
# What makes the requests up, and from what: another version makes others of the same seed.
MAKERS = ["hypothesis==6.170.15", "jsonschema-rs==0.60.3"]


def main() -> None:
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    home = cache / "serin" / "venvs" / f"schemathesis-{VERSION}"
    program = home / "bin" / "schemathesis"
    done = home / "installed"  # written last: a venv without it was interrupted
    home.parent.mkdir(parents=True, exist_ok=True)
    with open(home.with_name(home.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run beside each other
        if not done.exists():
            venv.create(home, with_pip=True, clear=True)
            pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", f"schemathesis=={VERSION}", *MAKERS]
            subprocess.run(pip, check=True, stdout=sys.stderr)
            done.touch()
    print(program)


if __name__ == "__main__":
    main()
