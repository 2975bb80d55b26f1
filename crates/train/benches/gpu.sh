#!/usr/bin/env bash
# What a graphics card does with Kindling: the tests on it, then images per second of all seven
# networks, trained and inferred, beside PyTorch where `python3` has it. Prints one table and writes
# FOLDER/gpu.json, one object a line.
#
#   crates/train/benches/gpu.sh [--quick] [FOLDER]      # FOLDER: target/gpu-results
#
# --quick: the smallest network and two batches of two small images, to see that the script runs.
set -euo pipefail
quick=0
[ "${1:-}" = "--quick" ] && { quick=1; shift; }
folder="${1:-target/gpu-results}"
here="$(cd "$(dirname "$0")" && pwd)"
cd "$here/../../.."
mkdir -p "$folder"
folder="$(cd "$folder" && pwd)"
json="$folder/gpu.json"
: > "$json"

models=(mobilenet_v3_small mobilenet_v3_large mobilenet_v2 mobilenet_v1 googlenet inception_v3 xception)
batches=(32 128 256)
size=()
count=(--batches 20 --warmup 5)
if [ "$quick" = 1 ]; then
  models=(mobilenet_v3_small)
  batches=(2)
  size=(--img-size 64)
  count=(--batches 2 --warmup 1)
fi

cargo build --workspace --bins
kindling="${CARGO_TARGET_DIR:-target}/debug/kindling"
"$kindling" train --backend list

echo "== correctness: every operation and every network against the CPU"
if cargo test --workspace --test extensions --test parity wgpu -- --nocapture > "$folder/tests.log" 2>&1 &&
   cargo test --workspace --test extensions >> "$folder/tests.log" 2>&1; then
  echo "passed"
else
  echo "FAILED: see $folder/tests.log"
fi

# One line of the JSON file for a command that prints one; a line that says so where it fails.
measure() { # program precision model batch mode command...
  local program=$1 precision=$2 model=$3 batch=$4 mode=$5
  shift 5
  local out
  if out=$("$@" 2> "$folder/error.txt"); then
    out=$(printf '%s' "$out" | grep -o '"img_per_s":[0-9.]*' | head -1 | cut -d: -f2)
  else
    out=null
  fi
  printf '{"program":"%s","precision":"%s","model":"%s","batch":%s,"mode":"%s","img_per_s":%s}\n' \
    "$program" "$precision" "$model" "$batch" "$mode" "${out:-null}" | tee -a "$json"
}

precisions=(f32)
"$kindling" bench --help | grep -q -- '--amp' && precisions+=(f16)
torch=0
python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null && torch=1
[ "$torch" = 1 ] || echo "(python3 has no torch with a card: Kindling alone)"

for model in "${models[@]}"; do
  for batch in "${batches[@]}"; do
    for mode in train infer; do
      for precision in "${precisions[@]}"; do
        amp=()
        [ "$precision" = f16 ] && amp=(--amp)
        measure kindling "$precision" "$model" "$batch" "$mode" \
          "$kindling" bench --backend wgpu --model "$model" --batch-size "$batch" --mode "$mode" \
          "${size[@]}" "${count[@]}" "${amp[@]}" --json
      done
      if [ "$torch" = 1 ]; then
        for precision in f32 f16; do
          measure pytorch "$precision" "$model" "$batch" "$mode" \
            python3 "$here/gpu_torch.py" "$model" "$batch" "$mode" "$precision"
        done
      fi
    done
  done
done

echo
echo "== images per second"
awk -F'[:,}]' '
  { gsub(/"/, ""); key = $6 " " $8 " " $10; col = $2 " " $4; value[key, col] = $12
    if (!(key in seen)) { seen[key] = 1; keys[++n] = key }
    if (!(col in cols)) { cols[col] = 1; names[++m] = col } }
  END {
    printf "%-22s %6s %-6s", "model", "batch", "mode"
    for (j = 1; j <= m; j++) printf " %14s", names[j]
    print ""
    for (i = 1; i <= n; i++) {
      split(keys[i], k, " ")
      printf "%-22s %6s %-6s", k[1], k[2], k[3]
      for (j = 1; j <= m; j++) {
        v = value[keys[i], names[j]]
        printf " %14s", (v == "" || v == "null") ? "-" : sprintf("%.1f", v)
      }
      print ""
    }
  }' "$json" | tee "$folder/table.txt"
echo
echo "$json"
