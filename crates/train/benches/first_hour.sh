#!/bin/sh
# The first hour: folders of images and no flag but --seed. Prints the best accuracy of each run with its seconds.
# usage: first_hour.sh KINDLING SEEDS DATA...   such as: first_hour.sh target/debug/kindling "1 2 3" digits crops
#        A DATA of the form FOLDER:WEIGHTS fine-tunes: digits:mobilenet_v1.ckpt
set -eu
kindling=$1 seeds=$2
shift 2
for data in "$@"; do
    folder=${data%%:*}
    weights=
    [ "$folder" = "$data" ] || weights="--pretrained-path ${data#*:}"
    for seed in $seeds; do
        from=$(date +%s)
        # shellcheck disable=SC2086
        best=$("$kindling" train "$folder" $weights --seed "$seed" --output target/first_hour | grep '^best: ')
        echo "$data, seed $seed: $(($(date +%s) - from)) s, $best"
    done
done
