#!/usr/bin/env python3
"""Installs the S3 server of the tests of `serin-serve fetch`: moto, from PyPI, into an environment
of its own.

    python3 serving-image/scripts/install_moto.py

It lies under $XDG_CACHE_HOME/serin/moto (~/.cache where that is unset). Nothing is done where it is
already there.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

PACKAGES = ["moto[s3,iam,server]==5.2.5", "boto3==1.44.5"]


def main():
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(cache) / "serin/moto"
    complete = directory / "complete"
    if complete.is_file() and complete.read_text() == "\n".join(PACKAGES):
        return
    print(f"installing {' '.join(PACKAGES)} into {directory}", file=sys.stderr)
    venv.create(directory, with_pip=True, clear=True)
    pip = [directory / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *PACKAGES], check=True)
    complete.write_text("\n".join(PACKAGES))


if __name__ == "__main__":
    main()
