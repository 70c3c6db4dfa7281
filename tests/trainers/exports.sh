#!/usr/bin/env bash
# Runs the demonstration's jobs and writes every export that check.py and llamafactory.py load.
#
#     tests/trainers/exports.sh PROGRAM FOLDER
set -euo pipefail
cd "$(dirname "$0")/../.."
program=$(realpath "$1")
folder=$2
rm -rf "$folder"
mkdir -p "$folder"
folder=$(realpath "$folder")

head -n 24 examples/demo/questions.jsonl > "$folder/questions.jsonl"
# The pairs that the demonstration's answers are by their own scores.
python3 - examples/demo/reward/answers.jsonl "$folder/pairs.jsonl" <<'PYTHON'
import json, sys

with open(sys.argv[1], encoding="utf-8") as read, open(sys.argv[2], "w", encoding="utf-8") as write:
    for line in list(read)[:16]:
        row = json.loads(line)
        answers = sorted(row.pop("answers"), key=lambda answer: -answer["score"])
        row.update(better=answers[0]["answer"], worse=answers[-1]["answer"])
        write.write(json.dumps(row, ensure_ascii=False) + "\n")
PYTHON

run() { # NAME JOB SETTINGS...
    local name=$1 job=$2
    shift 2
    local set=()
    for one in "$@"; do set+=(--set "$one"); done
    "$program" run "$job" --quiet --set "output.path=$folder/$name.out" "${set[@]}" > "$folder/$name.log" 2>&1
    mkdir -p "$folder/$name"
}
write() { # NAME FILE FORMAT FLAGS...
    local name=$1 file=$2 format=$3
    shift 3
    for ending in jsonl parquet; do
        "$program" export "$folder/$name.out" --to "$format" --output "$folder/$name/$file.$ending" "$@" 2>> "$folder/$name.log"
    done
}

run generate jobs/demo.toml "input.path=$folder/questions.jsonl" generation.num_return_sequences=2 \
    generation.do_sample=true generation.logprobs=true
for format in rlhf trl-prompt-completion alpaca sharegpt messages openai-batch; do
    write generate "$format" "$format"
done
write generate trl-prompt-completion-conversational trl-prompt-completion --conversational
for ending in jsonl parquet csv tsv; do
    "$program" export "$folder/generate.out" --to "$ending" --output "$folder/generate/rows.$ending" 2>> "$folder/generate.log"
done
"$program" export "$folder/generate.out" --to messages --output "$folder/folder/" 2>> "$folder/generate.log"

# Conversations, whose turns a trainer is to get as they are.
python3 - "$folder/questions.jsonl" "$folder/chats.jsonl" <<'PYTHON'
import json, sys

with open(sys.argv[1], encoding="utf-8") as read, open(sys.argv[2], "w", encoding="utf-8") as write:
    rows = [json.loads(line) for line in read]
    for number, (row, before) in enumerate(zip(rows, rows[1:] + rows[:1])):
        turns = [{"role": "user", "content": row["question"]}]
        if number % 2:
            turns = [
                {"role": "user", "content": before["question"]},
                {"role": "assistant", "content": before["answer"]},
            ] + turns
        if number % 3 == 0:
            turns = [{"role": "system", "content": "请简要回答。"}] + turns
        write.write(json.dumps({"id": row["id"], "chat": turns}, ensure_ascii=False) + "\n")
PYTHON
run chat jobs/demo.toml "input.path=$folder/chats.jsonl" 'input.columns={messages = "chat"}'
write chat sharegpt sharegpt
write chat messages messages
write chat trl-prompt-completion-conversational trl-prompt-completion --conversational

run reward jobs/reward.toml
write reward rlhf rlhf
run choose jobs/choose.toml
write choose trl-unpaired trl-unpaired
run score jobs/score.toml "input.path=$folder/pairs.jsonl" 'input.columns.target=["better", "worse"]'
write score trl-unpaired trl-unpaired
write score trl-unpaired-conversational trl-unpaired --conversational
write score trl-preference trl-preference
write score trl-preference-conversational trl-preference --conversational
if [ -f jobs/demo-preference.toml ]; then
    run preference jobs/demo-preference.toml
    write preference rlhf rlhf
    write preference trl-preference trl-preference
    write preference trl-preference-margin trl-preference --margin
    write preference trl-unpaired trl-unpaired
fi
