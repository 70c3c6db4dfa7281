"""Loads exports with the loaders of those who read them, and lets each trainer of TRL take one step on a tiny model.

Usage: check.py FOLDER, where check.sh has put the exports. Prints a line for each check.
"""

import json
import sys
from pathlib import Path

import datasets

FOLDER = Path(sys.argv[1])
datasets.disable_progress_bars()

COLUMNS = {
    "generate/rlhf": ["prompt", "prefix", "answers"],
    "reward/rlhf": ["prompt", "prefix", "answers"],
    "generate/trl-prompt-completion": ["prompt", "completion"],
    "generate/trl-prompt-completion-conversational": ["prompt", "completion"],
    "choose/trl-unpaired": ["prompt", "completion", "label"],
    "score/trl-unpaired": ["prompt", "completion", "label"],
    "score/trl-unpaired-conversational": ["prompt", "completion", "label"],
    "score/trl-preference": ["prompt", "chosen", "rejected", "ref_chosen_logps", "ref_rejected_logps"],
    "score/trl-preference-conversational": ["prompt", "chosen", "rejected", "ref_chosen_logps", "ref_rejected_logps"],
    "preference/rlhf": ["prompt", "prefix", "answers"],
    "preference/trl-preference": ["prompt", "chosen", "rejected"],
    "preference/trl-preference-margin": ["prompt", "chosen", "rejected", "margin"],
    "preference/trl-unpaired": ["prompt", "completion", "label"],
    "generate/alpaca": ["instruction", "input", "output"],
    "generate/sharegpt": ["conversations"],
    "generate/messages": ["messages"],
    "chat/sharegpt": ["conversations"],
    "chat/messages": ["messages"],
    "chat/trl-prompt-completion-conversational": ["prompt", "completion"],
    "generate/openai-batch": ["id", "custom_id", "response", "error"],
}


def said(name, what):
    print(f"{name:<50} {what}", flush=True)


def load(name, ending="jsonl"):
    file = FOLDER / f"{name}.{ending}"
    reader = {"jsonl": "json", "tsv": "csv"}.get(ending, ending)
    more = {"sep": "\t"} if ending == "tsv" else {}
    return datasets.load_dataset(reader, data_files=str(file), split="train", **more)


def each_file():
    """Every export, as JSON lines and as Parquet."""
    for name, columns in COLUMNS.items():
        if not (FOLDER / f"{name}.jsonl").exists():
            said(name, "not checked: this program has no such job yet")
            continue
        plain = load(name)
        packed = load(name, "parquet")
        assert plain.column_names == packed.column_names == columns, (plain.column_names, packed.column_names)
        assert len(plain) == len(packed) > 0
        if name != "generate/openai-batch":
            assert None not in plain[0].values(), plain[0]
            assert plain.to_list() == packed.to_list(), name
        said(name, f"datasets {datasets.__version__}: {len(plain)} rows, both forms equal")
    rows = load("generate/rows")
    for ending in ["parquet", "csv", "tsv"]:
        other = load("generate/rows", ending)
        assert other.column_names == rows.column_names
        for name in ["row", "id", "completion", "finish_reason", "completion_tokens"]:
            assert list(other[name]) == list(rows[name]), (ending, name)
        said(f"generate/rows.{ending}", f"datasets {datasets.__version__}: {len(other)} rows, equal to JSON lines")
    folder = datasets.load_dataset(str(FOLDER / "folder"), split="train")
    assert folder.column_names == ["messages"]
    said("folder with its card", f"datasets {datasets.__version__}: {len(folder)} rows")


def conversations():
    """Conversations come as they went in, with the answer behind them."""
    chats = [json.loads(line)["chat"] for line in (FOLDER / "chats.jsonl").read_text(encoding="utf-8").splitlines()]
    whole = load("chat/messages")["messages"]
    asked = load("chat/trl-prompt-completion-conversational")
    assert len(whole) == len(asked) == len(chats) > 0
    for chat, messages, line in zip(chats, whole, asked):
        assert messages[:-1] == line["prompt"] == chat, messages
        assert messages[-1:] == line["completion"] and messages[-1]["role"] == "assistant", messages
    said("chat/messages", f"{len(chats)} conversations, each turn as it was")


def batch_lines():
    try:
        import openai
        from openai.types.chat import ChatCompletion
    except ImportError:
        said("generate/openai-batch", "not checked: no package `openai`")
        return
    lines = (FOLDER / "generate/openai-batch.jsonl").read_text(encoding="utf-8").splitlines()
    for line in map(json.loads, lines):
        ChatCompletion.model_validate(line["response"]["body"], strict=True)
    said("generate/openai-batch", f"openai {openai.__version__}: {len(lines)} answers are chat completions")


def tiny_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<eos>", "<user>", "<assistant>"]
    vocabulary = {token: number for number, token in enumerate(special + letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    fast.chat_template = (
        "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}<eos>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    return fast


def tiny_model(tokenizer, head):
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        num_labels=1,
    )
    return head(config)


def trainers():
    try:
        import torch
        import trl
        from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PrinterCallback
    except ImportError as error:
        said("trainers of TRL", f"not checked: {error}")
        return
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    work = {
        "SFT": (trl.SFTTrainer, trl.SFTConfig, LlamaForCausalLM, [
            "generate/trl-prompt-completion", "generate/trl-prompt-completion-conversational", "generate/messages",
            "chat/messages", "chat/trl-prompt-completion-conversational"]),
        "DPO": (trl.DPOTrainer, trl.DPOConfig, LlamaForCausalLM, [
            "score/trl-preference", "score/trl-preference-conversational", "preference/trl-preference"]),
        "reward": (trl.RewardTrainer, trl.RewardConfig, LlamaForSequenceClassification, [
            "score/trl-preference", "score/trl-preference-conversational",
            "preference/trl-preference", "preference/trl-preference-margin"]),
        "KTO": (trl.KTOTrainer, trl.KTOConfig, LlamaForCausalLM, [
            "choose/trl-unpaired", "score/trl-unpaired", "score/trl-unpaired-conversational", "preference/trl-unpaired"]),
    }
    for name, (trainer_class, config_class, head, files) in work.items():
        for file in files:
            what = f"{name} on {file}"
            if not (FOLDER / f"{file}.jsonl").exists():
                said(what, "not checked: this program has no such job yet")
                continue
            rows = load(file)
            config = config_class(
                output_dir=str(FOLDER / "trained"), max_steps=1, per_device_train_batch_size=4, report_to=[],
                use_cpu=True, save_strategy="no", logging_steps=1, disable_tqdm=True, bf16=False,
            )
            model = tiny_model(tokenizer, head)
            reference = {"ref_model": tiny_model(tokenizer, head)} if name in ("DPO", "KTO") else {}
            trainer = trainer_class(model=model, args=config, train_dataset=rows, processing_class=tokenizer, **reference)
            told = ""
            if name == "DPO" and "ref_chosen_logps" in rows.column_names:
                # It takes them from the rows once it is told that they are there; its own setting computes them anew.
                trainer.precompute_ref_logps = True
                trainer.ref_model = None
                told = "with the reference log-probabilities of the file"
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
            loss = losses[0] if losses else trainer.state.log_history[-1]["train_loss"]
            assert loss == loss, f"{what}: the loss is not a number"
            said(what, f"trl {trl.__version__}: one step, loss {float(loss):.4f} {told}")


each_file()
conversations()
batch_lines()
trainers()
