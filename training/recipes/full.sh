#!/usr/bin/env bash
# GODEL itself: fine-tuned on all of DSTC9 track 1, made smaller, distilled, measured and exported.
# Fetches the data with git and the model from its hub; wants a GPU. MODEL=FOLDER takes a checkpoint on disk instead.
# Several GPUs or machines: put `accelerate launch --num_processes 8 -m` in place of `$python -m` before finetune.
# Before student, evaluate or export it would start as many copies. distil takes it too, but its other processes wait
# while one writes the teacher's answers.
set -euo pipefail
python=${PYTHON:-python}
run=${RUN:-build/runs/full}
model=${MODEL:-microsoft/GODEL-v1_1-base-seq2seq}

$python -m training.data --dstc9 "${DSTC9:-clone}" --output "$run/data"

$python -m training.finetune --model_name_or_path "$model" --dataset_name "$run/data" --output_dir "$run/finetuned" \
    --per_device_train_batch_size 16 --per_device_eval_batch_size 16 --max_target_length 128 --max_length 512 \
    --num_train_epochs 5 --early_stopping_patience 2 --num_beams 5 --max_eval_records 500 --save_steps 10000 \
    --exp_name dstc9 --logging_steps 50

# The mini model: half of the encoder, a quarter of the decoder.
$python -m training.student --model "$run/finetuned/best" --output_dir "$run/student" \
    --encoder_layers 6 --decoder_layers 3
$python -m training.distil --teacher "$run/finetuned/best" --student "$run/student/model" \
    --data "$run/data/train.jsonl" --output_dir "$run/distilled" --answers 19000 --reference_share 0.3 \
    --max_train_steps 5000 --tokens 8192 --learning_rate 3e-4

for stage in finetuned/best distilled/model; do
    $python -m training.evaluate --model "$run/$stage" --data "$run/data/validation.jsonl" \
        --json "$run/$(dirname "$stage").json" --samples 20
done
$python -m training.export --model "$run/distilled/model" --output "$run/mini" --precision int8
echo "serve it: make serve MODEL=$run/mini"
