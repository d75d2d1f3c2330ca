#!/usr/bin/env bash
# Tunes SmolLM2-135M on WikiText-2: scripts/tune_smollm2.sh MODEL_FOLDER TEXT_FOLDER RESULT_FOLDER
# Asks how much can be pruned within 10 %, and whether 2:4 stays within four times the perplexity;
# leaves each answer's figures and page, without the pruned models.
set -euo pipefail
model=$1 texts=$2 results=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ask() {
    local name=$1
    shift
    python3 -m prunerzero tune --model "$model" --calibration "$texts/calibration.txt" \
        --validation "$texts/validation.txt" --num-calibration-samples 32 --seconds "${SECONDS_EACH:-30}" \
        --output-dir "$work/$name" "$@"
    mkdir -p "$results/$name"
    cp "$work/$name"/tune.json "$work/$name"/*.html "$results/$name" 2>/dev/null || true
}
ask within-10-percent --max-degradation 10%
ask pattern-2-4 --max-degradation 300% --pattern 2:4
