"""Preparing images: Kindling's loader, torchvision's and timm's, in turn on the same folder and cores.

Kindling decodes large images smaller (--decode scaled), `exact` does not; `draft` is torchvision's loader with Pillow
asked for the same: the crop is drawn first, and the image decoded at the same scale.

    cargo build --workspace --examples
    python crates/train/benches/input.py DIR --rounds 3

DIR holds train/<class>/*.jpg. Every one does a random resized crop to 224, a mirror image, and normalises, batches of
64, nobody consuming them. Needs torch, torchvision, timm. Prints medians of images per second and of the rounds' ratios
(Kindling's over the contender's).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def draft_crop(path, size=224, gap=2):
    """A random resized crop of an image that is decoded as small as the gap allows."""
    from PIL import Image
    from torchvision import transforms as t

    with open(path, "rb") as file:
        image = Image.open(file)
        wide, tall = image.size
        like = Image.new("1", image.size)  # get_params reads the size alone
        top, left, height, width = t.RandomResizedCrop.get_params(like, (0.08, 1.0), (3 / 4, 4 / 3))
        fits = [s for s in (8, 4, 2, 1) if s == 1 or min(height, width) >= gap * s * size]
        shrink = fits[0]
        if shrink > 1:
            image.draft("RGB", (wide // shrink, tall // shrink))
        image = image.convert("RGB")
        box = [edge / shrink for edge in (left, top, left + width, top + height)]
        box[2:] = min(box[2], image.width), min(box[3], image.height)
        return image.resize((size, size), Image.BILINEAR, box=box)


def draft_loader(args, workers):
    import torch
    from torchvision import datasets
    from torchvision import transforms as t

    steps = t.Compose([t.RandomHorizontalFlip(), t.ToTensor(), t.Normalize(MEAN, STD)])
    data = datasets.ImageFolder(os.path.join(args.folder, "train"), steps, loader=draft_crop)
    options = {"persistent_workers": True} if workers else {}
    return torch.utils.data.DataLoader(
        data, batch_size=64, shuffle=True, drop_last=True, num_workers=workers, **options
    )


def torchvision_loader(args, workers):
    import torch
    from torchvision import datasets
    from torchvision import transforms as t

    steps = [t.RandomResizedCrop(224), t.RandomHorizontalFlip(), t.ToTensor(), t.Normalize(MEAN, STD)]
    data = datasets.ImageFolder(os.path.join(args.folder, "train"), t.Compose(steps))
    options = {"persistent_workers": True} if workers else {}
    return torch.utils.data.DataLoader(
        data, batch_size=64, shuffle=True, drop_last=True, num_workers=workers, **options
    )


def timm_loader(args, workers):
    import timm.data

    data = timm.data.create_dataset("", os.path.join(args.folder, "train"))
    return timm.data.create_loader(
        data,
        (3, 224, 224),
        64,
        is_training=True,
        use_prefetcher=False,
        num_workers=workers,
        mean=MEAN,
        std=STD,
        interpolation="bilinear",
        color_jitter=None,
        persistent_workers=workers > 0,
    )


def measured(args, loader):
    for _ in loader:
        pass
    start, images = time.perf_counter(), 0
    for _ in range(args.epochs):
        for images, _ in loader:
            images += images.shape[0]
    print(json.dumps({"img_per_s": images / (time.perf_counter() - start)}))


def run(args, name, workers):
    if name in ("kindling", "exact"):
        how = "exact" if name == "exact" else "scaled"
        command = [args.kindling, args.folder, str(workers), str(args.epochs), how]
    else:
        command = [sys.executable, __file__, args.folder, "--contender", name, "--workers", str(workers)]
        command += ["--epochs", str(args.epochs)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(result.stderr)
    return json.loads(result.stdout.strip().splitlines()[-1])["img_per_s"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    every = ["kindling", "exact", "torchvision", "draft", "timm"]
    parser.add_argument("--contenders", nargs="+", choices=every, default=["kindling", "torchvision", "timm"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--kindling", default="target/debug/examples/input_speed")
    parser.add_argument("--contender", choices=["torchvision", "draft", "timm"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        import torch

        torch.set_num_threads(1)
        make = {"torchvision": torchvision_loader, "draft": draft_loader, "timm": timm_loader}[args.contender]
        return measured(args, make(args, args.workers[0]))
    for workers in args.workers:
        names = args.contenders
        rounds = [{name: run(args, name, workers) for name in names} for _ in range(args.rounds)]
        print(f"{workers} workers")
        for name in names:
            speeds = [r[name] for r in rounds]
            ratios = [r["kindling"] / r[name] for r in rounds]
            print(
                f"  {name:12} {statistics.median(speeds):7.1f} images/s ({min(speeds):.1f} to {max(speeds):.1f})"
                f"  ratio {statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
