#!/usr/bin/env bash
# Measures what the pages tell of GPUs, on this machine's: scripts/measure_on_gpus.sh MODELS TEXTS RESULTS
# MODELS holds the folders SmolLM2-135M and Qwen2.5-Coder-1.5B, TEXTS what examples.metrics.texts makes. One
# thing after the other, each with a log and JSON in RESULTS; what needs more GPUs than there are is left out.
# STEPS names some of them, as in STEPS="tests search_7b".
set -uo pipefail
refuse() { echo "Error: $1" >&2; exit 2; }
[ $# = 3 ] && [ -d "$1" ] && [ -d "$2" ] || refuse "name the folder of models, that of texts, and one for results."
for asked in ${STEPS:-}; do
    grep -qE "^step $asked [0-9\"]" "$0" || refuse "there is no step $asked; the lines that begin with 'step' in $0 name them."
done
mkdir -p "$3" 2>/dev/null || refuse "$3 is no folder, and cannot be made one."
models=$(realpath "$1") texts=$(realpath "$2") results=$(realpath "$3")
cd "$(dirname "$0")/.."
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
[ "$gpus" -gt 0 ] || refuse "there is no NVIDIA GPU on this machine."
calibration=$texts/wikitext2/calibration.txt validation=$texts/wikitext2/validation.txt
step() {
    local name=$1 needed=$2
    shift 2
    [ -z "${STEPS:-}" ] || [[ " $STEPS " = *" $name "* ]] || return 0
    [ "$gpus" -ge "$needed" ] || { echo "$name is left out: GPUs that it needs: $needed, GPUs here: $gpus"; return 0; }
    local begun=$SECONDS
    "$@" >"$results/$name.log" 2>&1 || echo "$name failed: $results/$name.log"
    echo "$name took $((SECONDS - begun)) s"
}
# where memory and instructions of the packed products stand, and what their warps wait for: of every 25th launch
profile() {
    ncu --clock-control none --kernel-id '::regex:^(streams|two_four)$:.*(00|25|50|75)' \
        --section SpeedOfLight --section SchedulerStats --section WarpStateStats --section Occupancy \
        python3 -m benchmarks.packed_cuda --shapes 11008x4096 --batches "$1" --passes 1
}
large() {
    local name=$1
    shift
    python3 -m benchmarks.large_search --output "$results/$name.json" "$@"
}
step tests 1 python3 -m pytest -q tests/pruning tests/scoring tests/packed tests/tasks -k "gpu or cuda"
step search_7b 1 large search_7b -- --time 10m --operators extended
step search_7b_refitted 1 large search_7b_refitted -- --time 10m --update least-squares
one=$results/search_7b.json
step search_7b_two_workers 2 large search_7b_two_workers $([ ! -f "$one" ] || echo "--beside $one") -- --time 5m --operators extended --workers 2
# as many models as do not fit on one GPU: two on 80 GB, three on 141
many=$([ "$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits 2>/dev/null | head -1)" -gt 100000 ] 2>/dev/null && echo 3 || echo 2)
step models_on_gpus "$many" large models_on_gpus --models "$many" -- --time 5m --workers auto
step models_by_turns 1 large models_by_turns --models "$many" -- --time 5m --device cuda:0
step workers 2 python3 -m benchmarks.search_scaling --model "$models/SmolLM2-135M" --calibration "$calibration" \
    --validation "$validation" --workers 1 2 --time 60 --num-validation-samples 22 --dtype bfloat16 \
    --operators extended --no-changes --output "$results/workers.json"
step profile_1 1 profile 1
step profile_16 1 profile 16
step products 1 python3 -m benchmarks.packed_cuda --batches 1 4 8 16 24 32 48 64 --passes 8 --output "$results/products.json"
step cuts 1 python3 -m benchmarks.packed_cuts --batches 1 4 8 16 24 32 48 --output "$results/cuts.json"
step packed_7b 1 python3 -m benchmarks.packed_cuda_model --output "$results/packed_7b.json"
step bench 1 python3 -m benchmarks.packed_cuda_bench --layers 4 --output "$results/bench"
step benchmarks 1 python3 -m benchmarks --device cuda --output "$results/benchmarks.json"
step quick_products 1 python3 -m benchmarks.quick_products --model "$models/Qwen2.5-Coder-1.5B" --device cuda \
    --calibration "$calibration" --test "$validation" --windows 24 --max-seq-length 1024 \
    --output "$results/quick_products.json"
step steps_of_a_refit 1 python3 -m benchmarks.conjugate_steps --model "$models/Qwen2.5-Coder-1.5B" --device cuda \
    --dtype bfloat16 --sparsities 2:4 --metrics 24 --best 10 --windows 8 --num-calibration-samples 24 \
    --calibration "$calibration" --validation "$validation" --output "$results/steps_of_a_refit.json"
step tune 1 scripts/tune_smollm2.sh "$models/SmolLM2-135M" "$texts/wikitext2" "$results/tune"
