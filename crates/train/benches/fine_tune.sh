#!/bin/sh
# Ways to fine-tune side by side: the rules' own, all layers at once at two rates, rates that fall by block, blocks unfrozen in
# turn. Prints the accuracy after the last epoch of each run.
# usage: fine_tune.sh KINDLING WEIGHTS SEEDS VAL_FRACTION DATA...
#        such as: fine_tune.sh target/debug/kindling mobilenet_v1.ckpt "1 2 3" 0.9 digits
#        DATA is a folder of class folders without a split; 0.9 leaves a tenth of the images to train on.
set -eu
kindling=$1 weights=$2 seeds=$3 share=$4
shift 4
for data in "$@"; do
    for seed in $seeds; do
        run() {
            way=$1
            shift
            best=$("$kindling" train "$data" --pretrained-path "$weights" --val-fraction "$share" --seed "$seed" --no-report \
                --val-interval 1000 --output target/fine_tune "$@" | grep '^best: ')
            echo "$data, seed $seed, $way: $best"
        }
        all="--unfreeze-epoch 0 --layer-decay 1"
        run "the rules"
        # shellcheck disable=SC2086
        run "all at once, 0.0005" $all --lr 0.0005
        # shellcheck disable=SC2086
        run "all at once, 0.001" $all --lr 0.001
        run "falling by 0.9" --unfreeze-epoch 0 --layer-decay 0.9 --lr 0.001
        run "the classifier first" --unfreeze-epoch 1 --layer-decay 1 --lr 0.001
        run "falling by 0.75" --unfreeze-epoch 1 --layer-decay 0.75 --lr 0.001
        run "in turn" --unfreeze-epoch 1 --unfreeze-over 10 --layer-decay 0.9 --lr 0.001
    done
done
