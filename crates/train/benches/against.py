"""Kindling against PyTorch, ONNX Runtime, tract and stock Burn: one process each, in turn, on the same cores.

    cargo build --workspace
    python crates/train/benches/against.py --models mobilenet_v3_large --modes train infer --rounds 3

Needs torch, torchvision, timm, onnx, onnxruntime and tract. Prints, for every contender, the median of images per second and
of the rounds' ratios (Kindling's speed over the contender's in the same round), with their range.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

CONTENDERS = {
    "train": ["kindling", "kindling-ndarray", "eager", "channels_last", "compile", "stock-flex", "stock-ndarray"],
    "infer": ["kindling", "kindling-ndarray", "channels_last", "onnxruntime", "tract", "stock-flex", "stock-ndarray"],
}


def network(name):
    import timm
    import torchvision

    if name == "mobilenet_v1":
        return timm.create_model("mobilenetv1_100")
    if name == "xception":
        return timm.create_model("legacy_xception")
    more = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    return getattr(torchvision.models, name)(**more)


def measured(seconds, args):
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"img_per_s": args.batch_size / statistics.median(seconds), "peak_rss_mb": peak}))


def run_torch(args):
    import torch

    torch.set_num_threads(args.threads)
    model = network(args.models[0])
    x = torch.randn(args.batch_size, 3, args.img_size, args.img_size)
    if args.contender != "eager":
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    train = args.modes[0] == "train"
    model.train(train)
    run = torch.compile(model) if args.contender == "compile" else model
    seconds = []
    if train:
        options = {"lr": 1e-3, "momentum": 0.9, "nesterov": True, "weight_decay": 4e-5}
        optimizer = torch.optim.SGD(model.parameters(), **options)
        labels = torch.arange(args.batch_size) % 1000
        for _ in range(args.warmup + args.batches):
            start = time.perf_counter()
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(run(x), labels)
            loss.backward()
            optimizer.step()
            loss.item()
            seconds.append(time.perf_counter() - start)
    else:
        with torch.inference_mode():
            for _ in range(args.warmup + args.batches):
                start = time.perf_counter()
                run(x)
                seconds.append(time.perf_counter() - start)
    measured(seconds[args.warmup :], args)


def exported(args):
    """The path of the model as ONNX, made once."""
    size = args.img_size
    path = os.path.join(tempfile.gettempdir(), f"against-{args.models[0]}-{size}.onnx")
    if not os.path.exists(path):
        import torch

        axes = {"x": {0: "n"}}
        model, example = network(args.models[0]).eval(), torch.randn(1, 3, size, size)
        torch.onnx.export(model, example, path, input_names=["x"], dynamic_axes=axes, dynamo=False)
    return path


def run_export(args):
    """In a process of its own, so that nobody's memory counts torch's."""
    exported(args)
    print("{}")


def timed_inference(args, infer):
    import numpy

    x = numpy.random.randn(args.batch_size, 3, args.img_size, args.img_size).astype("f4")
    seconds = []
    for _ in range(args.warmup + args.batches):
        start = time.perf_counter()
        infer(x)
        seconds.append(time.perf_counter() - start)
    measured(seconds[args.warmup :], args)


def run_onnxruntime(args):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    session = onnxruntime.InferenceSession(exported(args), options, providers=["CPUExecutionProvider"])
    timed_inference(args, lambda x: session.run(None, {"x": x}))


def run_tract(args):
    """tract runs a model on one thread, whatever there is."""
    import tract

    model = tract.onnx().load(exported(args))
    model.set_input_fact(0, f"{args.batch_size},3,{args.img_size},{args.img_size},f32")
    runnable = model.into_model().into_runnable()
    timed_inference(args, lambda x: runnable.run([x])[0].to_numpy())


def run_kindling(args, contender, model, mode):
    backend = "ndarray" if contender.endswith("ndarray") else "flex"
    stock = contender.startswith("stock")
    # Stock ndarray takes half a minute for a batch.
    batches, warmup = (1, 0) if contender == "stock-ndarray" else (args.batches, args.warmup)
    command = [args.kindling, "bench", "--json", "--model", model, "--mode", mode, "--backend", backend]
    command += ["--batch-size", args.batch_size, "--img-size", args.img_size, "--threads", args.threads]
    command += ["--batches", batches, "--warmup", warmup]
    environment = dict(os.environ, KINDLING_KERNELS="stock") if stock else None
    return last_line(map(str, command), environment)


def last_line(command, environment=None):
    result = subprocess.run(list(command), capture_output=True, text=True, env=environment)
    if result.returncode != 0:
        raise SystemExit(result.stderr)
    return json.loads(result.stdout.strip().splitlines()[-1])


def run(args, contender, model, mode):
    if contender.startswith(("kindling", "stock")):
        return run_kindling(args, contender, model, mode)
    command = [sys.executable, __file__, "--contender", contender, "--models", model, "--modes", mode]
    for name in ["batch_size", "img_size", "threads", "batches", "warmup"]:
        command += ["--" + name.replace("_", "-"), str(getattr(args, name))]
    return last_line(command)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["mobilenet_v3_large"])
    parser.add_argument("--modes", nargs="+", default=["train", "infer"], choices=["train", "infer"])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="contenders, kindling among them")
    parser.add_argument("--kindling", default="target/debug/kindling")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        runs = {"onnxruntime": run_onnxruntime, "tract": run_tract, "export": run_export}
        return runs.get(args.contender, run_torch)(args)
    for model in args.models:
        for mode in args.modes:
            names = [n for n in CONTENDERS[mode] if not args.only or n in args.only]
            if mode == "infer" and {"onnxruntime", "tract"} & set(names):
                run(args, "export", model, mode)
            rounds = []
            for _ in range(args.rounds):
                rounds.append({name: run(args, name, model, mode) for name in names})
            print(f"{model} {mode}, batch {args.batch_size}, {args.img_size}x{args.img_size}, {args.threads} threads")
            for name in names:
                speeds = [r[name]["img_per_s"] for r in rounds]
                ratios = [r["kindling"]["img_per_s"] / r[name]["img_per_s"] for r in rounds]
                peak = max(r[name]["peak_rss_mb"] or 0 for r in rounds)
                print(
                    f"  {name:17} {statistics.median(speeds):7.1f} images/s ({min(speeds):.1f} to {max(speeds):.1f})"
                    f"  ratio {statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                    f"  peak {peak:5.0f} MB",
                    flush=True,
                )


if __name__ == "__main__":
    main()
