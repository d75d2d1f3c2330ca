#!/usr/bin/env bash
# Tunes SmolLM2-135M on WikiText-2: scripts/tune_smollm2.sh MODEL_FOLDER TEXT_FOLDER RESULT_FOLDER
# Asks, side by side, how much can be pruned within 10 %, and whether 2:4 stays within four times the
# perplexity. Leaves each answer's figures, page and log, without the pruned models; an answer that
# fails leaves what it had measured. TIME_EACH is the time of each evolution. Where there are two GPUs,
# each answer has its own.
set -uo pipefail
model=$1 texts=$2 results=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
ask() {
    local name=$1 gpu=$2
    shift 2
    mkdir -p "$results/$name"
    [ "$gpus" -lt 2 ] || export CUDA_VISIBLE_DEVICES=$gpu
    python3 -m prunerzero tune --model "$model" --dtype bfloat16 --calibration "$texts/calibration.txt" \
        --validation "$texts/validation.txt" --num-calibration-samples 32 \
        --time "${TIME_EACH:-30s}" --output-dir "$work/$name" "$@" \
        >"$results/$name/answer.txt" 2>"$results/$name/log.txt" || echo "$name failed"
    cp "$work/$name"/tune.json "$work/$name"/report.html "$work/$name"/run/measured.jsonl \
        "$results/$name" 2>/dev/null
    cat "$results/$name/answer.txt"
    tail -n 2 "$results/$name/log.txt"
}
ask within-10-percent 0 --max-degradation 10% &
ask pattern-2-4 1 --max-degradation 300% --pattern 2:4 &
wait
