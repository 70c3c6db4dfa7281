#!/usr/bin/env bash
# Loads every export with the loaders of those who read them, and lets the trainers of TRL take a step on each.
#
#     tests/trainers/check.sh [PROGRAM]        default: target/release/glm-batch
#
# Makes two Python environments below target/trainers, pinned by the requirements here, once; the first needs 6 GB, which
# is torch. What cannot be had is said to be `not checked`. Ends with 1 where a check fails.
set -euo pipefail
cd "$(dirname "$0")/../.."
program=${1:-target/release/glm-batch}
work=target/trainers
python=${PYTHON:-python3}
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_HOME="$work/home" TOKENIZERS_PARALLELISM=false PYTHONWARNINGS=ignore LLAMAFACTORY_VERBOSITY=WARN
mkdir -p "$work"
[ -x "$program" ] || { echo "no program at $program: build it, or name another"; exit 1; }

# Makes an environment unless it is there whole.
environment() { # FOLDER REQUIREMENTS EXTRA...
    local folder=$1 requirements=$2
    shift 2
    cmp -s "$requirements" "$folder/made-of.txt" && return
    rm -rf "$folder"
    "$python" -m venv "$folder"
    if [ "$folder" = "$work/factory" ]; then
        "$work/venv/bin/python" -c 'import site; print(site.getsitepackages()[0])' \
            > "$("$folder/bin/python" -c 'import site; print(site.getsitepackages()[0])')/shared.pth"
    fi
    "$folder/bin/pip" install --quiet --no-cache-dir -r "$requirements" || return 1
    if [ $# -gt 0 ]; then
        "$folder/bin/pip" install --quiet --no-cache-dir --no-deps "$@" || return 1
    fi
    cp "$requirements" "$folder/made-of.txt"
}

tests/trainers/exports.sh "$program" "$work/exports"
result=0
if environment "$work/venv" tests/trainers/requirements.txt; then
    "$work/venv/bin/python" tests/trainers/check.py "$work/exports" || result=1
    if environment "$work/factory" tests/trainers/requirements-factory.txt \
        llamafactory==0.9.5 trl==0.24.0 peft==0.18.1 accelerate==1.11.0 torchaudio==2.11.1 av==16.0.0; then
        "$work/factory/bin/python" tests/trainers/factory.py "$work/exports" || result=1
    else
        echo "LLaMA-Factory: not checked, its packages cannot be had"
    fi
else
    echo "datasets, TRL, LLaMA-Factory: not checked, their packages cannot be had"
fi
exit $result
