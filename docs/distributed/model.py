#!/usr/bin/env python3
"""A model of training on N nodes: no measurement of N nodes.

    python3 docs/distributed/model.py [steps.jsonl]

A step takes as long as the slowest of N ranks, and then the sum of the gradients. The time of a rank
is drawn from recorded steps (`--log-interval 1`), as factors of their median, with replacement and a
fixed seed: 2,000 steps for each N. Without a file the factors are those recorded for
docs/distributed.md. The sum is the ring's: 2 (N - 1) / N of the bytes over the wire at WIRE of its
rate, and 2 log2(N) latencies. Nothing overlaps.
"""
import json
import math
import random
import statistics
import sys

# Bytes of the gradients of 1000 classes in f32, and images/s of one CPU node (2 cores) at 224 pixels (299 for the last two):
# MobileNetV3-Large and V1 are README's; the others are scaled from V3-Large by multiply-adds, an ASSUMPTION.
NETWORKS = {
    "mobilenet_v1": (4.23e6, 68.0, 569),
    "mobilenet_v2": (3.50e6, None, 301),
    "mobilenet_v3_small": (2.54e6, None, 57),
    "mobilenet_v3_large": (5.48e6, 101.0, 217),
    "googlenet": (6.62e6, None, 1498),
    "inception_v3": (23.83e6, None, 5713),
    "xception": (22.86e6, None, 8361),
}
# ASSUMPTION: a CUDA-class GPU trains MobileNetV3-Large at 2500 images/s (../shared reference), the others by multiply-adds.
GPU_V3_LARGE = 2500.0
CLUSTERS = {
    # name: (nodes, bytes/s, seconds of latency, images of a rank's batch, staging bytes/s, on a GPU)
    "64 CPU nodes, 10 Gb/s": (64, 10e9 / 8, 50e-6, 64, None, False),
    "16 GPU nodes, 100 Gb/s": (16, 100e9 / 8, 5e-6, 128, 10e9, True),
}
# Share of the wire's rate that a sum reached between two network namespaces: measured.
WIRE = 0.5

def factors(path):
    rows = [json.loads(line) for line in open(path)]
    seconds, before, images = [], 0.0, 0
    for row in rows:
        if row["batch"] == 1:
            before, images = 0.0, 0
        batch = BATCH
        images += batch
        now = images / row["img_per_s"]
        if row["batch"] > 1:
            seconds.append(now - before)
        before = now
    middle = statistics.median(seconds)
    return [s / middle for s in seconds]


BATCH = 32


def main():
    random.seed(1)
    draws = factors(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    ordered = sorted(draws)
    p99 = ordered[int(0.99 * (len(ordered) - 1))]
    print(f"{len(draws)} recorded steps: p50 1, p90 {ordered[int(0.9 * (len(ordered) - 1))]:.2f}, p99 {p99:.2f}, largest {ordered[-1]:.2f}")
    for title, (nodes, rate, latency, images, staging, gpu) in CLUSTERS.items():
        print(f"\n{title}: {images} images a rank, {WIRE:.0%} of the wire's rate")
        print("| network | MB | compute, ms | sum, ms | efficiency, no stragglers | with them | accumulating 4 |")
        print("|---|---|---|---|---|---|---|")
        slowest = [max(random.choices(draws, k=nodes)) for _ in range(2000)]
        mean_one, mean_slowest = statistics.mean(draws), statistics.mean(slowest)
        for name, (count, measured, madds) in NETWORKS.items():
            base, of = (GPU_V3_LARGE, 217) if gpu else (101.0, 217)
            speed = base * of / madds if gpu or measured is None else measured
            size = 4 * count
            compute = images / speed
            total = 2 * (nodes - 1) / nodes * size / (rate * WIRE) + 2 * math.log2(nodes) * latency
            if staging:
                total += 2 * size / staging
            plain = compute / (compute + total)
            straggled = compute * mean_one / (compute * mean_slowest + total)
            # Of four batches the sum of four draws is the slowest: stragglers average out.
            four = statistics.mean(max(sum(random.choices(draws, k=4)) for _ in range(nodes)) for _ in range(200))
            accumulated = 4 * compute * mean_one / (compute * four + total)
            print(f"| {name} | {size / 1e6:.1f} | {1e3 * compute:.0f} | {1e3 * total:.1f} | {plain:.0%} | {straggled:.0%} | {accumulated:.0%} |")


# Percentiles 0 to 99 and the largest of 183 recorded steps: MobileNetV3-Large at 96 pixels, batch 32, 2 busy cores.
DEFAULT = [
    0.486, 0.486, 0.488, 0.489, 0.491, 0.492, 0.494, 0.495, 0.495, 0.496, 0.497, 0.5, 0.501, 0.503,
    0.505, 0.509, 0.51, 0.52, 0.53, 0.531, 0.535, 0.536, 0.546, 0.556, 0.575, 0.599, 0.602, 0.608,
    0.65, 0.678, 0.692, 0.717, 0.726, 0.736, 0.748, 0.772, 0.78, 0.794, 0.798, 0.801, 0.813, 0.87,
    0.896, 0.913, 0.922, 0.941, 0.948, 0.973, 0.99, 0.995, 1.0, 1.004, 1.027, 1.031, 1.032, 1.041,
    1.044, 1.057, 1.076, 1.09, 1.095, 1.116, 1.121, 1.136, 1.143, 1.155, 1.159, 1.183, 1.203, 1.215,
    1.242, 1.312, 1.341, 1.368, 1.387, 1.402, 1.443, 1.456, 1.467, 1.489, 1.495, 1.509, 1.514,
    1.543, 1.568, 1.571, 1.587, 1.592, 1.625, 1.642, 1.682, 1.749, 1.85, 1.859, 1.902, 1.959, 2.022,
    2.288, 2.349, 3.902,
]

if __name__ == "__main__":
    main()
