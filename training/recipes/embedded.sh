#!/usr/bin/env bash
# The embedded model and its smaller sibling: about six hours on two CPU cores, no GPU needed.
# DATA is a folder of JSON-lines records and of text; models/embedded/README.md names the sets and their sources.
set -euo pipefail
python=${PYTHON:-python}
data=${DATA:-build/data}
run=${RUN:-build/runs/embedded}

$python -m training.pretrain training/recipes/embedded.yaml --data "$data" --output_dir "$run/pretrained"
$python -m training.export --engine torch --model "$run/pretrained/model" --output "$run/embedded" --precision bf16

# The circuits (training/circuits.py) stand in the first four encoder layers: those stay.
$python -m training.student --model "$run/embedded" --output_dir "$run/student" \
    --encoder_layers 0,1,2,3 --decoder_layers 1 --vocabulary 4096 \
    --texts "$data/squad_train.jsonl" "$data/dstc9_train_matched.jsonl" "$data/topical_chat.jsonl"
$python -m training.distil --teacher "$run/embedded" --student "$run/student/model" \
    --recipe training/recipes/embedded.yaml --data "$data" --output_dir "$run/distilled" \
    --answers 5000 --reference_share 0.5 --max_train_steps 800 --learning_rate 1e-3 --choice_weight 0.5
$python -m training.export --engine torch --model "$run/distilled/model" --output "$run/embedded-mini" --precision bf16

for model in embedded embedded-mini; do
    for set in squad_dev dstc9_val; do
        $python -m training.evaluate --model "$run/$model" --data "$data/$set.jsonl" --json "$run/$model-$set.json"
    done
done
