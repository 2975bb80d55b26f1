"""Training images out of shards: by place against in windows (--shard-window), from a cold file cache, in turn.

    cargo build --workspace --examples
    kindling data shard DIR --output SHARDS
    python crates/train/benches/shards.py SHARDS --windows 0 1024 2048

Before every round the pages of the shards are put out of the file cache (posix_fadvise, which needs no rights). One epoch
of examples/input_speed: random resized crops, batches of 64, nobody consuming them; --size 32 leaves little but decoding
and reading. Window 0 is by place. Prints medians of images per second, of the rounds' ratios to the first of the windows,
and what the process read. --plain does nothing but read, in one thread: every image by its place in a random order, or
the files from front to back.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import time


def files(folder):
    return sorted(os.path.join(folder, f) for f in os.listdir(folder) if f.startswith("train-") and f.endswith(".tar"))


def cool(folder):
    os.sync()
    for path in files(folder):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(args, window):
    cool(args.folder)
    command = [args.kindling, args.folder, str(args.workers), "0", "scaled", str(window), str(args.size)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(result.stderr)
    return json.loads(result.stdout.strip().splitlines()[-1])


def plain(args):
    with open(os.path.join(args.folder, "index.json")) as file:
        index = json.load(file)
    handles = [os.open(os.path.join(args.folder, shard["file"]), os.O_RDONLY) for shard in index["train"]]
    places = [(h, m[0], m[1]) for h, shard in zip(handles, index["train"]) for m in shard["pictures"]]
    random.Random(1).shuffle(places)
    step = 8 << 20
    runs = [(h, at, step) for h, shard in zip(handles, index["train"]) for at in range(0, shard["bytes"], step)]
    for _ in range(args.rounds):
        for name, reads in (("by place", places), ("front to back", runs)):
            cool(args.folder)
            start = time.perf_counter()
            total = sum(len(os.pread(handle, count, at)) for handle, at, count in reads)
            seconds = time.perf_counter() - start
            print(f"  {name:14} {total / 1e6 / seconds:7.0f} MB/s  {len(places) / seconds:7.0f} images/s  {len(reads)} reads")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--windows", nargs="+", type=int, default=[0, 2048])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--kindling", default="target/debug/examples/input_speed")
    args = parser.parse_args()
    if args.plain:
        return plain(args)
    rounds = [{window: run(args, window) for window in args.windows} for _ in range(args.rounds)]
    first = args.windows[0]
    for window in args.windows:
        speeds = [r[window]["img_per_s"] for r in rounds]
        ratios = [r[window]["img_per_s"] / r[first]["img_per_s"] for r in rounds]
        last = rounds[-1][window]
        print(
            f"  window {window:6} {statistics.median(speeds):7.1f} images/s ({min(speeds):.1f} to {max(speeds):.1f})"
            f"  ratio {statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            f"  {last['read_calls']} reads of {last['read_mb']:.0f} MB, {last['disk_mb']:.0f} MB from the disk"
        )


if __name__ == "__main__":
    main()
