#!/usr/bin/env bash
# The embedded model, for one H100 or H200 and the cores beside it: half an hour, planned in large.yaml. Then its smaller
# sibling, for which a CPU does: 35 minutes of two cores.
# DATA is a folder of JSON-lines records and of text; models/embedded/README.md names the sets and their sources.
# Every line goes on where a cut left it: `timeout -s INT 580 make train RECIPE=large` again and again ends the same way.
# A thousand questions of each set say how it went; LIMIT=100000 takes all, which any CPU can do afterwards.
# MINUTES of training and PEAK, the device's dense bf16 TFLOP/s, may be given; TRIAL=1 tries batch sizes instead.
set -euo pipefail
python=${PYTHON:-python}
data=${DATA:-build/data}
run=${RUN:-build/runs/large}
recipe=${YAML:-training/recipes/large.yaml}
peak=${PEAK:-989}

measure() {
    for set in squad_dev dstc9_val; do
        $python -m training.evaluate --model "$run/$1" --engine torch --data "$data/$set.jsonl" --samples 20 \
            --limit "${LIMIT:-1000}" --json "$run/$1-$set.json"
    done
}

$python -m training.shards "$recipe" --data "$data" --output_dir "$run/pretrained"
if [ -n "${TRIAL:-}" ]; then
    exec $python -m training.throughput "$recipe" --data "$data" --output_dir "$run/pretrained" --peak_tflops "$peak" \
        --fuse both
fi
$python -m training.pretrain "$recipe" --data "$data" --output_dir "$run/pretrained" \
    --minutes "${MINUTES:-20}" --peak_tflops "$peak"
$python -m training.export --engine torch --model "$run/pretrained/model" --output "$run/embedded" --precision bf16
measure embedded

# The circuits (training/circuits.py) stand in the first four encoder layers: those stay.
$python -m training.student --model "$run/embedded" --output_dir "$run/student" \
    --encoder_layers 0,1,2,3 --decoder_layers 1 --vocabulary 4096 \
    --texts "$data/squad_train.jsonl" "$data/dstc9_train_matched.jsonl" "$data/topical_chat.jsonl"
$python -m training.distil --teacher "$run/embedded" --student "$run/student/model" \
    --recipe "$recipe" --data "$data" --output_dir "$run/distilled" \
    --answers 5000 --reference_share 0.5 --max_train_steps 800 --learning_rate 7e-4 --choice_weight 0.5
$python -m training.export --engine torch --model "$run/distilled/model" --output "$run/embedded-mini" --precision bf16
measure embedded-mini
