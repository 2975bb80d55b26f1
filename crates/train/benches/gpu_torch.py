"""Images per second of torchvision's or timm's network on a card, for `gpu.sh`.

    python3 gpu_torch.py MODEL BATCH train|infer f32|f16

Channels last, compiled; f16 by autocast with a gradient scaler. Prints one JSON object.
"""

import json
import sys
import time

import torch

MODELS = {
    "mobilenet_v1": ("timm", "mobilenetv1_100"),
    "mobilenet_v2": ("torchvision", "mobilenet_v2"),
    "mobilenet_v3_small": ("torchvision", "mobilenet_v3_small"),
    "mobilenet_v3_large": ("torchvision", "mobilenet_v3_large"),
    "googlenet": ("torchvision", "googlenet"),
    "inception_v3": ("torchvision", "inception_v3"),
    "xception": ("timm", "legacy_xception"),
}


def build(name):
    source, own = MODELS[name]
    if source == "timm":
        import timm

        return timm.create_model(own)
    import torchvision

    auxiliary = {"aux_logits": False, "init_weights": True} if own in ("googlenet", "inception_v3") else {}
    return getattr(torchvision.models, own)(**auxiliary)


def main():
    name, batch, mode, precision = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
    size = 299 if name in ("inception_v3", "xception") else 224
    model = build(name).cuda().to(memory_format=torch.channels_last)
    model.train(mode == "train")
    x = torch.randn(batch, 3, size, size, device="cuda").to(memory_format=torch.channels_last)
    target = torch.arange(batch, device="cuda") % 1000
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=4e-5)
    scaler = torch.amp.GradScaler("cuda", enabled=precision == "f16")
    compiled = torch.compile(model)

    def step():
        with torch.autocast("cuda", torch.float16, enabled=precision == "f16"):
            if mode == "infer":
                with torch.no_grad():
                    return compiled(x)
            loss = torch.nn.functional.cross_entropy(compiled(x), target)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(10):
        step()
    torch.cuda.synchronize()
    times = []
    for _ in range(20):
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    median = sorted(times)[len(times) // 2]
    print(json.dumps({"img_per_s": batch / median, "torch": torch.__version__}, separators=(",", ":")))


main()
