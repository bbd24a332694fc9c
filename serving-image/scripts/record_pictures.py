#!/usr/bin/env python3
"""Draws the pictures that the tests read, and records what Pillow, numpy and ONNX Runtime make of
them.

    python3 serving-image/scripts/record_pictures.py

Writes tests/fixtures/pictures/: a made-up photograph in several formats, what Pillow decodes of the
JPEGs, and what it makes of the PNG in each way of resizing; and
models/text-direction-pictures/serin-model.json with its fixtures: lines of text in DejaVu Sans,
which comes with matplotlib, prepared as the package rapidocr-onnxruntime does it, with OpenCV.

Pillow 13 goes along the columns first for some sizes, and rounds a level here and there otherwise;
here it is 12, which goes along the rows first, as all before it.
"""

import base64
import io
import json
import math
import tempfile
from pathlib import Path

import environment

environment.enter(
    "numpy==2.4.6", "onnxruntime==1.31.1", "pillow==12.3.0", "matplotlib==3.11.2", "opencv-python-headless==5.0.0.93"
)

import cv2
import matplotlib
import numpy as np
import onnxruntime
from artefacts import SERVING, list_files
from fetch_models import fetch_files
from PIL import Image, ImageDraw, ImageFont, ImageOps

FIXTURES = SERVING / "tests/fixtures"
PICTURES = FIXTURES / "pictures"
FILTERS = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}

# ---------------------------------------------------------------------------- decoding and resizing


def photograph(width, height):
    """Smooth colours, edges and some noise."""
    random = np.random.default_rng(7)
    y, x = np.mgrid[0:height, 0:width] / [[[height]], [[width]]]
    planes = [120 + 100 * np.sin(5 * x + 3 * y), 60 + 180 * x * y, 200 - 150 * (x - 0.4) ** 2 - 60 * y]
    picture = np.stack(planes, axis=2) + random.normal(0, 4, (height, width, 3))
    picture[(x - 0.6) ** 2 + (y - 0.5) ** 2 < 0.05] = [230, 30, 40]
    picture[:, width // 5 : width // 5 + 3] = 10
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def crop(image, size, resample, shortest):
    """torchvision's Resize and CenterCrop."""
    width, height = image.size
    short, long = min(width, height), max(width, height)
    scaled = int(shortest * long / short)
    image = image.resize((shortest, scaled) if width <= height else (scaled, shortest), resample)
    left, top = (int(round((have - want) / 2.0)) for have, want in zip(image.size, size))
    return image.crop((left, top, left + size[0], top + size[1]))


def line(image, size, resample, fill):
    """PaddleOCR's resize_norm_img."""
    width = min(size[0], math.ceil(size[1] * (image.width / float(image.height))))
    result = Image.new("RGB", size, fill)
    result.paste(image.resize((width, size[1]), resample), (0, 0))
    return result


def by_opencv(image):
    return Image.fromarray(cv2.resize(np.asarray(image), (20, 13)))


def ways():
    """By name: the manifest's `resize`, and Pillow's result."""
    for name, resample in FILTERS.items():
        own = {} if name == "bilinear" else {"filter": name}
        yield f"exact-{name}", {"width": 20, "height": 13, "mode": "exact", **own}, lambda i, r=resample: i.resize((20, 13), r)
        yield f"wider-{name}", {"width": 55, "height": 22, "mode": "exact", **own}, lambda i, r=resample: i.resize((55, 22), r)
        yield f"crop-{name}", {"width": 21, "height": 18, "mode": "crop", "shortestEdge": 25, **own}, lambda i, r=resample: crop(i, (21, 18), r, 25)
    bilinear = Image.BILINEAR
    yield "crop", {"width": 17, "height": 22, "mode": "crop"}, lambda i: crop(i, (17, 22), bilinear, 22)
    yield "pad", {"width": 29, "height": 32, "mode": "pad"}, lambda i: ImageOps.pad(i, (29, 32), bilinear)
    fill = (114, 20, 250)
    yield "pad-wide", {"width": 60, "height": 17, "mode": "pad", "fill": fill}, lambda i: ImageOps.pad(i, (60, 17), bilinear, color=fill)
    yield "line", {"width": 50, "height": 13, "mode": "line", "fill": fill}, lambda i: line(i, (50, 13), bilinear, fill)
    yield "not-antialiased", {"width": 20, "height": 13, "mode": "exact", "antialias": False}, by_opencv
    yield "line-narrow", {"width": 9, "height": 20, "mode": "line"}, lambda i: line(i, (9, 20), bilinear, None)


def pictures():
    PICTURES.mkdir(exist_ok=True)
    for old in PICTURES.iterdir():
        old.unlink()
    photo = photograph(39, 29)
    photo.save(PICTURES / "photo.png", optimize=True)
    photo.convert("L").save(PICTURES / "photo-grey.png", optimize=True)
    cases = {}
    for name, resize, make in ways():
        cases[name] = resize
        make(photo).save(PICTURES / f"{name}.png", optimize=True)
    (PICTURES / "ways.json").write_text(json.dumps(cases) + "\n")
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    options = {
        "420": {"quality": 90, "subsampling": "4:2:0"},
        "444": {"quality": 90, "subsampling": "4:4:4"},
        "progressive": {"quality": 75, "progressive": True},
        "turned": {"quality": 90, "subsampling": "4:4:4", "exif": exif},
    }
    for name, how in options.items():
        photo.save(PICTURES / f"{name}.jpg", **how)
        decoded = Image.open(PICTURES / f"{name}.jpg")
        ImageOps.exif_transpose(decoded).save(PICTURES / f"{name}-decoded.png", optimize=True)
    photo.convert("L").save(PICTURES / "grey.jpg", quality=90)
    Image.open(PICTURES / "grey.jpg").save(PICTURES / "grey-decoded.png", optimize=True)
    # What else a PNG may hold, and what Pillow makes of it.
    photo.quantize(16).save(PICTURES / "palette.png", optimize=True)
    photo.quantize(16).convert("RGB").save(PICTURES / "palette-decoded.png", optimize=True)
    veil = photo.copy()
    veil.putalpha(Image.linear_gradient("L").resize(photo.size))
    veil.save(PICTURES / "alpha.png", optimize=True)
    photo.resize((12, 9)).save(PICTURES / "animated.png", save_all=True, append_images=[Image.new("RGB", (12, 9))])
    photo.resize((12, 9)).save(PICTURES / "other.gif")


# ------------------------------------------------------------------ the direction of a line of text

TEXTS = ["Serin", "canary release 42", "a small yellow finch, singing", "über 1,000 Straßen"]


# How much of a line is there upside down.
BLENDS = [0.5, 0.5, 0.5, 0.5]


def text(words, size, light):
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)
    left, top, right, bottom = font.getbbox(words)
    ground, ink = ((236, 232, 220), (40, 30, 60)) if light else ((20, 40, 50), (240, 200, 90))
    image = Image.new("RGB", (right - left + 16, bottom - top + 12), ground)
    ImageDraw.Draw(image).text((8 - left, 6 - top), words, fill=ink, font=font)
    return image


def by_package(image):
    """rapidocr_onnxruntime.ch_ppocr_cls.text_cls.TextClassifier.resize_norm_img."""
    levels = np.asarray(image)[:, :, ::-1]
    width = min(192, math.ceil(48 * (levels.shape[1] / float(levels.shape[0]))))
    planes = cv2.resize(levels, (width, 48)).astype("float32").transpose(2, 0, 1) / 255
    planes -= 0.5
    planes /= 0.5
    padded = np.zeros((3, 48, 192), np.float32)
    padded[:, :, :width] = planes
    return padded


def direction(directory):
    session = onnxruntime.InferenceSession(directory / "model.onnx", providers=["CPUExecutionProvider"])
    run = lambda prepared: session.run(None, {"x": np.stack(prepared)})[0]
    pictures = []
    for index, words in enumerate(TEXTS):
        image = text(words, 16 + 3 * index, index % 2 == 0)
        turned = image.transpose(Image.ROTATE_180)
        # The last is both at once, so that the answer is near neither 0 nor 1.
        pictures += [image, turned, Image.blend(image, turned, BLENDS[index])]
    labels = ["0", "180"]
    known = ["0", "180", None] * len(TEXTS)
    files = {"png": [], "jpeg": []}
    for image in pictures:
        for name, how in {"png": {"optimize": True}, "jpeg": {"quality": 85}}.items():
            buffer = io.BytesIO()
            image.quantize(16).save(buffer, name, **how) if name == "png" else image.save(buffer, name, **how)
            files[name].append(buffer.getvalue())
    files["jpeg"] = files["jpeg"][:6]
    answers = {}
    for name, contents in files.items():
        decoded = [Image.open(io.BytesIO(content)).convert("RGB") for content in contents]
        answers[name] = run([by_package(image) for image in decoded])
        found = [labels[int(answer.argmax())] for answer in answers[name]]
        wrong = [place for place, (have, want) in enumerate(zip(found, known)) if want not in (None, have)]
        assert not wrong, f"{name}: the direction of {wrong} is not found"
        print(f"{name}: probability of both directions at once {answers[name][2::3, 1]}")
    instances = {name: [{"x": base64.b64encode(content).decode()} for content in contents] for name, contents in files.items()}
    outputs = {name: [[float(number) for number in answer] for answer in answers[name]] for name in files}
    manifest = {
        "schemaVersion": 1, "name": "text-direction", "version": "3.0.0",
        "description": "PaddleOCR's classifier: does a line of text stand on its head? Takes pictures, in JPEG or PNG.",
        "licence": "Apache-2.0", "kind": "tensor", "task": "classification",
        "inputs": [{"name": "x", "type": "image"}],
        "preprocessing": [{
            "step": "image", "input": "x", "channels": "bgr",
            "resize": {"width": 192, "height": 48, "mode": "line", "fill": [127.5] * 3, "antialias": False},
            "rescale": 1 / 255, "mean": [0.5] * 3, "std": [0.5] * 3,
        }],
        "network": {"architecture": "onnx", "graph": "model.onnx",
                    "outputs": [{"name": "save_infer_model/scale_0.tmp_1", "holds": "probabilities"}]},
        "outputs": {"labels": labels}, "limits": {"maxInstances": 16},
        "golden": [{"instance": instances["png"][0], "output": outputs["png"][0], "tolerance": 1e-3}],
        "files": list_files(directory),
    }  # fmt: skip
    path = SERVING / "models/text-direction-pictures/serin-model.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(manifest) + "\n")
    for name, tolerance in TOLERANCES.items():
        fixture = {"source": "OpenCV and onnxruntime in Python", "tolerance": tolerance}
        fixture |= {"instances": instances[name], "outputs": outputs[name]}
        (FIXTURES / f"text-direction-{name}.json").write_text(json.dumps(fixture) + "\n")


# Of probabilities near 0.5. OpenCV rounds weights to 11 bits, and so some levels by one; decoders
# of JPEG differ by more.
TOLERANCES = {"png": 0.01, "jpeg": 0.03}


def main():
    pictures()
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        fetch_files("text-direction-pictures", directory)
        direction(directory)


if __name__ == "__main__":
    main()
