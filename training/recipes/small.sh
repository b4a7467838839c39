#!/usr/bin/env bash
# Every stage once, in a few minutes on two cores, on made-up data: what `make train` runs without more.
# Each line is a command of its own with --help; a run that was cut short goes on with the same line.
set -euo pipefail
python=${PYTHON:-python}
run=${RUN:-build/runs/small}

echo "== data: made-up cafes, records and text"
$python -m training.synthetic --output "$run/data" --count 2000

echo "== pretrain: from nothing to a model that finds a sentence and copies it"
$python -m training.pretrain training/recipes/small.yaml --data "$run/data" --output_dir "$run/pretrained"

echo "== finetune: questions on passages"
$python -m training.finetune --model_name_or_path "$run/pretrained/model" --dataset_name "$run/data" \
    --output_dir "$run/finetuned" --num_train_epochs 1 --per_device_train_batch_size 32 --learning_rate 1e-3 \
    --max_eval_records 40 --logging_steps 10 --exp_name small

echo "== student: the decoder's last layer alone, and two thirds of the tokens"
$python -m training.student --model "$run/finetuned/model" --output_dir "$run/student" \
    --encoder_layers 4 --decoder_layers 1 --vocabulary 512 --texts "$run/data/train.jsonl"

echo "== distil: the student learns from its teacher"
$python -m training.distil --teacher "$run/finetuned/model" --student "$run/student/model" \
    --data "$run/data/train.jsonl" --output_dir "$run/distilled" --answers 1500 --max_train_steps 150 \
    --tokens 2048 --learning_rate 2e-3 --choice_weight 0.5

echo "== evaluate: teacher, then student, by the engine that serves them"
for model in finetuned distilled; do
    $python -m training.evaluate --model "$run/$model/model" --data "$run/data/validation.jsonl" \
        --json "$run/$model.json"
done

echo "== export: as an engine serves it"
$python -m training.export --model "$run/distilled/model" --output "$run/export" --precision int8
echo "talk to it: make serve MODEL=$run/export"
