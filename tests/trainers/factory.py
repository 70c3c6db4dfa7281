"""Loads exports with LLaMA-Factory's own loader, which needs other versions than check.py.

Usage: factory.py FOLDER, where check.sh has put the exports. Prints a line for each check.
"""

import json
import os
import sys
from pathlib import Path

FOLDER = Path(sys.argv[1])
SETS = {
    "alpaca": {"formatting": "alpaca"},
    "sharegpt": {"formatting": "sharegpt"},
    "messages": {
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    },
}


def said(name, what):
    print(f"{name:<50} {what}", flush=True)


try:
    os.environ["DISABLE_VERSION_CHECK"] = "1"
    import datasets
    from importlib.metadata import version

    from llamafactory.data.loader import _load_single_dataset
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.hparams import DataArguments, ModelArguments
    from transformers import Seq2SeqTrainingArguments
except ImportError as error:
    said("LLaMA-Factory", f"not checked: {error}")
    sys.exit(0)

datasets.disable_progress_bars()


def load(folder, name, ending):
    """The rows of an export as LLaMA-Factory has them."""
    information = {f"ours_{name}": {"file_name": f"{name}.{ending}", **SETS[name]}}
    (folder / "dataset_info.json").write_text(json.dumps(information))
    data = DataArguments(dataset=f"ours_{name}", dataset_dir=str(folder), template="default", overwrite_cache=True)
    model = ModelArguments(model_name_or_path="none")
    training = Seq2SeqTrainingArguments(output_dir=str(FOLDER / "trained"), use_cpu=True, report_to=[])
    [attributes] = get_dataset_list([f"ours_{name}"], str(folder))
    return _load_single_dataset(attributes, model, data, training)


for ending in ["jsonl", "parquet"]:
    folder = FOLDER / "generate"
    for name in SETS:
        rows = load(folder, name, ending)
        expected = [json.loads(line) for line in (folder / "alpaca.jsonl").read_text(encoding="utf-8").splitlines()]
        assert len(rows) == len(expected) > 0
        for row, line in zip(rows, expected):
            whole = "\n".join(text for text in [line["instruction"], line["input"]] if text)
            assert row["_prompt"] == [{"role": "user", "content": whole}], row
            assert row["_response"] == [{"role": "assistant", "content": line["output"]}], row
        said(f"generate/{name}.{ending}", f"llamafactory {version('llamafactory')}: {len(rows)} rows, prompts and answers as they are")
    folder = FOLDER / "chat"
    chats = [json.loads(line)["chat"] for line in (FOLDER / "chats.jsonl").read_text(encoding="utf-8").splitlines()]
    for name in ["sharegpt", "messages"]:
        rows = load(folder, name, ending)
        assert len(rows) == len(chats) > 0
        for row, chat in zip(rows, chats):
            system = chat[0]["content"] if chat[0]["role"] == "system" else ""
            assert (row["_system"] or "") == system, row
            assert row["_prompt"] == [turn for turn in chat if turn["role"] != "system"], row
            assert [answer["role"] for answer in row["_response"]] == ["assistant"], row
        said(f"chat/{name}.{ending}", f"llamafactory {version('llamafactory')}: {len(rows)} conversations, each turn as it was")
