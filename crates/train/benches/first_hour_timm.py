"""PyTorch + timm on the folder of a Kindling run, with timm's own transforms, for so many minutes.

usage: first_hour_timm.py FOLDER [--split RUN/split.csv] --size PIXELS --minutes M [--model NAME] [--lr RATE] [--seed N]
AdamW, weight decay 0.05, label smoothing 0.1, one epoch of warm-up, cosine over as many epochs as the minutes hold.
Needs torch and timm.
"""
import argparse
import csv
import math
import os
import random
import time

import timm
import torch
from PIL import Image
from timm.data import create_transform
from torch.utils.data import DataLoader, Dataset

parser = argparse.ArgumentParser()
parser.add_argument("folder")
parser.add_argument("--split")
parser.add_argument("--model", default="mobilenetv3_large_100")
parser.add_argument("--size", type=int, default=224)
parser.add_argument("--batch", type=int, default=32)
parser.add_argument("--minutes", type=float, default=5)
parser.add_argument("--lr", type=float, default=2e-3)
parser.add_argument("--seed", type=int, default=42)
args = parser.parse_args()
torch.manual_seed(args.seed)
random.seed(args.seed)
torch.set_num_threads(2)

items = {"train": [], "val": []}
if args.split:
    with open(args.split, newline="") as rows:
        for row in csv.DictReader(rows):
            items[row["split"]].append((os.path.join(args.folder, row["path"]), row["class"]))
else:
    for split in items:
        for name in sorted(os.listdir(f"{args.folder}/{split}")):
            folder = f"{args.folder}/{split}/{name}"
            items[split] += [(f"{folder}/{file}", name) for file in sorted(os.listdir(folder))]
classes = {name: index for index, name in enumerate(sorted({name for _, name in items["train"]}))}


class Images(Dataset):
    def __init__(self, items, transform):
        self.items, self.transform = items, transform

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        path, name = self.items[index]
        return self.transform(Image.open(path).convert("RGB")), classes[name]


workers = {"num_workers": 2, "persistent_workers": True}
train = Images(items["train"], create_transform(args.size, is_training=True))
train = DataLoader(train, args.batch, shuffle=True, drop_last=True, **workers)
val = DataLoader(Images(items["val"], create_transform(args.size)), 64, **workers)
network = timm.create_model(args.model, num_classes=len(classes)).to(memory_format=torch.channels_last)
optimizer = torch.optim.AdamW(network.parameters(), lr=args.lr, weight_decay=0.05)
loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
began, epochs, step, best, epoch = time.time(), None, 0, 0.0, 0
while epochs is None or epoch < epochs:
    network.train()
    start = time.time()
    for images, labels in train:
        # The first epoch, whose time says how many there will be, is the warm-up.
        total = (epochs or 40) * len(train)
        warm = step / len(train)
        rate = args.lr * (warm if warm < 1 else 0.5 * (1 + math.cos(math.pi * step / total)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(network(images.to(memory_format=torch.channels_last)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
    seconds = time.time() - start
    epochs = epochs or max(2, int(args.minutes * 60 / (1.1 * seconds)))
    network.eval()
    right = 0
    with torch.no_grad():
        for images, labels in val:
            right += (network(images.to(memory_format=torch.channels_last)).argmax(1) == labels).sum().item()
    best, epoch = max(best, right / len(items["val"])), epoch + 1
    print(f"epoch {epoch}/{epochs}: top-1 {100 * right / len(items['val']):.2f}, best {100 * best:.2f}, "
          f"{time.time() - began:.0f} s, {len(items['train']) / seconds:.0f} images/s", flush=True)
