#!/usr/bin/env bash
# Cross-validates YOLOv8n on a tiny phantom, killed and resumed, then against another training.
#
#     bash scripts/reproduce/crossval_phantom.sh DIR      (a few minutes on two CPU cores)
#
# What it says goes to the screen; DIR holds both cross-validations and their tables.
set -uo pipefail
cd "$(dirname "$0")/../.."
dir=${1:?a folder for the results is wanted}
mkdir -p "$dir"
small=(--folds 3 --data.phantom-patients 24 --data.image-size 128 --train.epochs 30 --train.batch-size 8
    --evaluate.batch-size 8 --train.nominal-batch 8)

has_checkpoint() { ls -d "$dir/mosaic/$1/checkpoints/"[0-9]* > /dev/null 2>&1; }

echo "== killed in the first fold"
jaxdet crossval configs/demo.py "${small[@]}" --out "$dir/mosaic" 2> "$dir/1.log" &
until has_checkpoint fold_0; do sleep 1; done
sleep 5
kill -9 $!
wait
ls "$dir/mosaic" "$dir/mosaic/fold_0/checkpoints"
echo "== refused without --resume"
jaxdet crossval configs/demo.py "${small[@]}" --out "$dir/mosaic"
echo "== resumed, and asked to stop (SIGTERM) in the second fold"
jaxdet crossval configs/demo.py "${small[@]}" --out "$dir/mosaic" --resume 2> "$dir/2.log" &
until has_checkpoint fold_1; do sleep 1; done
kill -TERM $!
wait $!
echo "exit code $?"
echo "== resumed to the end"
jaxdet crossval configs/demo.py "${small[@]}" --out "$dir/mosaic" --resume 2> "$dir/3.log" |
    tee "$dir/mosaic.txt"
echo "== another training, against it"
jaxdet crossval configs/demo.py "${small[@]}" --data.augment.mosaic 0 --out "$dir/plain" \
    --against "$dir/mosaic" 2> "$dir/4.log" | tee "$dir/plain.txt"
