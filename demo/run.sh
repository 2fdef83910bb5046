#!/usr/bin/env bash
# The complete pipeline on synthetic DICOM files, in the order of a project with real ones.
#
#   make demo                    # about ten minutes on two cores; a second call prints the result again
#   rm -rf data/demo; make demo  # from the start
#
# A tiny CLIP is trained from random weights on a first cohort. It replaces a pretrained model, which an offline
# machine does not have. The other steps are those of a user: a second cohort from other scanners, LoRA on that
# base, evaluation, a submission, queries.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TOKENIZERS_PARALLELISM=false
export HF_HUB_OFFLINE=1 # no step requires the network, and none should wait for it

FIRST=data/demo/first SECOND=data/demo/second TRUTH=data/demo/second/phantom_truth/truth.csv
TWO_PROCESSES=accelerate_configs/cpu_2.yaml
BASE=local-dir:$FIRST/train/checkpoints/base/final

# Each step runs once: its name is written when it is done, so that an interrupted demo continues with the next step.
step() {
    local name=$1 begin=$SECONDS
    shift
    [[ -e data/demo/.done/$name ]] && return
    printf '\n== %s\n$ %s\n' "$name" "$*"
    "$@"
    mkdir -p data/demo/.done && echo "$((SECONDS - begin))" >"data/demo/.done/$name"
}

step 1-cohort-for-the-base python -m data_prep.phantom --root $FIRST --train 80 --test 0 --seed 1 --scanners first --workers 2
step 2-prepare-it python prepare_data.py --root $FIRST --workers 2
step 3-train-the-base accelerate launch --config_file $TWO_PROCESSES train_vl.py --root $FIRST --run base --config recipes/demo_base.yaml

step 4-cohort-of-other-scanners python -m data_prep.phantom --root $SECOND --train 160 --test 24 --seed 2 --scanners second --workers 2
step 5-prepare-it python prepare_data.py --root $SECOND --workers 2
step 6-the-bare-base-as-a-run python train_vl.py --root $SECOND --run base --config recipes/demo.yaml --model $BASE --max_train_steps 0
step 7-lora-from-the-base accelerate launch --config_file $TWO_PROCESSES train_vl.py --root $SECOND --run lora --config recipes/demo.yaml --model $BASE

step 8-evaluate-the-base python eval_vl.py --root $SECOND --run base
step 9-evaluate-lora python eval_vl.py --root $SECOND --run lora --compare base

ask() {
    python query_vl.py --root $SECOND --run lora --split test --truth $TRUTH --save "data/demo/answers/$1" --top 5 "$2"
}
step 10-first-question ask canal "severe spinal canal stenosis at L4-L5"
step 11-second-question ask foramen "severe left foraminal narrowing at L5-S1"
step 12-third-question ask recess "moderate or severe right lateral recess stenosis"

python -m demo.summary --first $FIRST --second $SECOND --steps data/demo/.done
