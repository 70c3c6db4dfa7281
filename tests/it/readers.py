"""Loads results by the calls that the program prints, and by those of the card, and compares the rows.

Reads lines of {"name", "out", "calls": [{"library", "call"}], "rows", "carried", "singles", "skip"} and writes one line for each
library that was tried: what it loaded, or why it was left out.
"""

import glob
import json
import math
import os
import re
import struct
import sys
import uuid

MODULES = {}
for name in ["datasets", "polars", "pandas", "pyarrow", "duckdb"]:
    try:
        MODULES[name] = __import__(name)
    except ImportError as error:
        print(f"skipped: {name}: {error}")
if "pyarrow" in MODULES:
    import pyarrow.json
    import pyarrow.parquet
if "datasets" in MODULES:
    MODULES["datasets"].disable_progress_bars()

OURS = ["row", "id", "sample", "status", "error", "completion", "finish_reason", "prompt_tokens", "completion_tokens", "token_ids"]


def plain(value):
    """A value as JSON has it; what a library writes for a missing value is None."""
    if value is None or value is getattr(MODULES.get("pandas"), "NA", None):
        return None
    if isinstance(value, uuid.UUID):
        return str(value)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def single(value):
    """A value in single precision: the digits of our rows are the shortest that lead to it."""
    if isinstance(value, list):
        return [single(item) for item in value]
    return None if value is None else struct.unpack("f", struct.pack("f", value))[0]


def records(library, loaded, names):
    """The rows, without columns whose values Python itself cannot hold, such as infinite dates."""
    if library == "datasets":
        return list(loaded["train"].select_columns(names))
    if library == "polars":
        return loaded.select(names).to_dicts()
    if library == "pandas":
        return loaded[names].to_dict("records")
    return loaded.select(names).to_pylist()


def compare(where, found, expected, names, singles):
    found = sorted(found, key=lambda row: (row["row"], plain(row.get("sample")) or 0))
    assert len(found) == len(expected), f"{where}: {len(found)} rows instead of {len(expected)}"
    for ours, row in zip(expected, found):
        for name in names:
            a, b = plain(row[name]), plain(ours[name])
            if name in singles:
                a, b = single(a), single(b)
            assert a == b, f"{where}: row {ours['row']}, {name}: {a!r} instead of {b!r}"


def duckdb_rows(job, names):
    ending = "parquet" if glob.glob(job["out"] + "/parts/*.parquet") else "jsonl"
    source = f"'{job['out']}/parts/*.{ending}'"
    if ending == "jsonl":
        source = f"read_json({source}, sample_size=-1)"
    relation = MODULES["duckdb"].sql(f"select * from {source}")
    quoted = ", ".join(f'"{name}"' for name in names)
    return [dict(zip(names, row)) for row in relation.select(quoted).fetchall()]


def card_calls(out):
    card = open(out + "/README.md", encoding="utf-8").read()
    code = re.search(r"```python\n(.*?)```", card, re.S).group(1)
    for line in code.splitlines():
        scope = {}
        library = re.match(r"import (?:glob, )?(?:os, )?(\w+)", line).group(1)
        yield library, line, scope


for line in sys.stdin:
    job = json.loads(line)
    singles = job["singles"]
    names = [name for name in OURS + job["carried"] + singles if name in job["rows"][0]]
    for call in job["calls"]:
        library = call["library"]
        if library not in MODULES or library in job["skip"]:
            continue
        scope = {}
        exec(f"import {call['modules']}; rows = {call['call']}", scope)
        loaded = scope["rows"]
        compare(f"{job['name']}, {library}", records(library, loaded, names), job["rows"], names, singles)
        print(f"{job['name']}: {library} loaded {len(job['rows'])} rows")
    here = os.getcwd()
    os.chdir(os.path.dirname(job["out"]))
    for library, code, scope in card_calls(job["out"]):
        if library in MODULES and library not in job["skip"]:
            exec(code, scope)
            compare(f"{job['name']}, card, {library}", records(library, scope["rows"], names), job["rows"], names, singles)
    os.chdir(here)
    if "duckdb" in MODULES and "duckdb" not in job["skip"]:
        compare(f"{job['name']}, duckdb", duckdb_rows(job, names), job["rows"], names, singles)
        print(f"{job['name']}: duckdb loaded {len(job['rows'])} rows")
