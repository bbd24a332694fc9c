#!/usr/bin/env python3
"""Lays out ONNX Runtime's library, which models in ONNX need, under
~/.cache/serin/onnxruntime/VERSION.

    python3 serving-image/scripts/fetch_onnxruntime.py [DIRECTORY]

It is taken out of the PyPI package onnxruntime (MIT), through pip, and verified by sha256. Nothing
is done where it lies there already. The server finds it by --onnxruntime or ORT_DYLIB_PATH.
"""

import sys
from pathlib import Path

from artefacts import from_wheel, put_in_place, sha256
from environment import cache

VERSION = "1.31.1"
LIBRARY = f"libonnxruntime.so.{VERSION}"
SHA256 = "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3"
# The wheel of one Python for all: the library inside is what matters, and the hash is of that.
PLATFORM = ["--python-version", "3.11", "--abi", "cp311", "--platform", "manylinux_2_28_x86_64", "--only-binary", ":all:"]
MEMBERS = {
    f"onnxruntime/capi/{LIBRARY}": LIBRARY,
    "onnxruntime/LICENSE": "LICENSE",
    "onnxruntime/ThirdPartyNotices.txt": "ThirdPartyNotices.txt",
}


def complete(directory):
    library = directory / LIBRARY
    return library.is_file() and sha256(library) == SHA256 and (directory / "ThirdPartyNotices.txt").is_file()


def fill(directory):
    from_wheel(f"onnxruntime=={VERSION}", MEMBERS, directory, *PLATFORM)


def main():
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else cache() / "onnxruntime" / VERSION
    put_in_place(directory, fill, complete)


if __name__ == "__main__":
    main()
