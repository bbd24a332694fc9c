#!/usr/bin/env python3
"""Writes the irises of a fixture as Parquet files, by pyarrow: what `serin-serve batch` meets in
the wild.

python3 -m venv venv && venv/bin/pip install pyarrow==21.0.0 venv/bin/python
serving-image/scripts/parquet_iris.py            # writes tests/fixtures/iris-{zstd,snappy}.parquet
venv/bin/python serving-image/scripts/parquet_iris.py --read F   # prints what pyarrow reads in a
file of ours

The first file has row groups of 40 rows, zstd, and a nullable integer id; the second 32-bit floats,
snappy, and columns in another order, one of them a timestamp that is not an input.
"""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FIXTURES = Path(__file__).resolve().parents[1] / "tests/fixtures"


def write() -> None:
    flowers = json.loads((FIXTURES / "iris-1.0.0.json").read_text())["instances"]
    fields = list(flowers[0])
    columns = {name: pa.array([float(flower[name]) for flower in flowers]) for name in fields}
    ids = pa.array([None if row == 7 else 1000 + row for row in range(len(flowers))], pa.int64())
    pq.write_table(
        pa.table({"id": ids, **columns}),
        FIXTURES / "iris-zstd.parquet",
        compression="zstd",
        row_group_size=40,
    )
    narrow = {name: columns[name].cast(pa.float32()) for name in reversed(fields)}
    times = pa.array([row * 1_000_000_007 for row in range(len(flowers))], pa.timestamp("us"))
    pq.write_table(pa.table({"seen": times, **narrow}), FIXTURES / "iris-snappy.parquet", compression="snappy")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:
        table = pq.read_table(sys.argv[2])
        print(table.schema)
        for row in table.to_pylist()[:3]:
            print(row)
        print(table.num_rows, "rows in", pq.ParquetFile(sys.argv[2]).num_row_groups, "row groups")
    else:
        write()
