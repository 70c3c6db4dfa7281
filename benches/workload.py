#!/usr/bin/env python3
"""Runs glm-batch on a workload of prompts with fixed answer lengths, and counts the tokens it gave.

usage: workload.py PROGRAM MODEL DTYPE WORKLOAD OUT [KEY=VALUE ...]

WORKLOAD is JSON lines with `id`, `text`, `prefix` and `out_len`: every answer gets exactly that many tokens. OUT gets a
line `{"id", "n_tokens"}` for each. KEY=VALUE are keys of the job. The summary of the run goes to standard error.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> int:
    if len(sys.argv) < 6:
        sys.exit(__doc__)
    program, model, dtype, workload, out = sys.argv[1:6]
    with tempfile.TemporaryDirectory(prefix="glm-batch-workload-") as folder:
        folder = Path(folder)
        write_job(folder, model, dtype, workload)
        sets = [word for pair in sys.argv[6:] for word in ("--set", pair)]
        done = subprocess.run([program, "run", str(folder / "job.toml"), *sets], stdout=sys.stderr)
        parts = sorted((folder / "out" / "parts").glob("*.jsonl"))
        with open(out, "w") as counts:
            for line in (line for part in parts for line in part.open()):
                row = json.loads(line)
                counts.write(json.dumps({"id": row["id"], "n_tokens": row["completion_tokens"]}) + "\n")
    return done.returncode


def write_job(folder: Path, model: str, dtype: str, workload: str) -> None:
    with open(workload) as rows, open(folder / "prompts.jsonl", "w") as prompts:
        for row in map(json.loads, rows):
            length = row["out_len"]
            row["generation"] = {"min_new_tokens": length, "max_new_tokens": length}
            keep = ("id", "text", "prefix", "generation")
            prompts.write(json.dumps({key: row[key] for key in keep}, ensure_ascii=False) + "\n")
    (folder / "job.toml").write_text(f"""version = 1
name = "workload"
model = {{ path = {json.dumps(str(Path(model).absolute()))}, device = "cpu", dtype = "{dtype}" }}
input.path = ["prompts.jsonl"]
input.columns = {{ id = "id", prompt = "text", prefix = "prefix", generation = "generation" }}
prompt.max_length = 512
output = {{ path = "out", format = "jsonl" }}
""")


if __name__ == "__main__":
    sys.exit(main())
