#!/usr/bin/env bash
# A model of large.sh's kind for machines without a GPU, and its smaller sibling: about six hours on two CPU cores.
# DATA is a folder of JSON-lines records and of text; models/embedded/README.md names the sets and their sources.
set -euo pipefail
python=${PYTHON:-python}
data=${DATA:-build/data}
run=${RUN:-build/runs/medium}

$python -m training.pretrain training/recipes/medium.yaml --data "$data" --output_dir "$run/pretrained"
$python -m training.export --engine torch --model "$run/pretrained/model" --output "$run/medium" --precision bf16

# The circuits (training/circuits.py) stand in the first four encoder layers: those stay.
$python -m training.student --model "$run/medium" --output_dir "$run/student" \
    --encoder_layers 0,1,2,3 --decoder_layers 1 --vocabulary 4096 \
    --texts "$data/squad_train.jsonl" "$data/dstc9_train_matched.jsonl" "$data/topical_chat.jsonl"
$python -m training.distil --teacher "$run/medium" --student "$run/student/model" \
    --recipe training/recipes/medium.yaml --data "$data" --output_dir "$run/distilled" \
    --answers 5000 --reference_share 0.5 --max_train_steps 800 --learning_rate 1e-3 --choice_weight 0.5
$python -m training.export --engine torch --model "$run/distilled/model" --output "$run/mini" --precision bf16

for model in medium mini; do
    for set in squad_dev dstc9_val; do
        $python -m training.evaluate --model "$run/$model" --data "$data/$set.jsonl" --json "$run/$model-$set.json"
    done
done
