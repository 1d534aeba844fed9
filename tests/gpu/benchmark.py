#!/usr/bin/env python3
"""Training throughput on one GPU, Lockstep and PyTorch in turns (A B A B ...), as Markdown. Started by run.sh.

Both train on made data of one shape. PyTorch: autocast to bf16, channels_last, torch.compile where it works; the batch
lies on the GPU from the start, so PyTorch pays for no loading, and Lockstep does. A ratio above 1 means that Lockstep is
faster."""
import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time

# name, zoo model and options, sample shape, batch, steps, FLOPs of one sample forward (multiply and add counted apart)
WORKLOADS = [
    ("resnet18", "resnet18", "3x32x32", 256, 60, None),
    ("resnet50", "resnet50", "3x224x224", 128, 40, 8.2e9),
]
CLASSES = 1000


def lockstep(build, model, shape, batch, steps):
    folder = tempfile.mkdtemp()
    try:
        out = subprocess.run(
            ["mpirun", "-n", "1", "--bind-to", "none", os.path.join(build, "lockstep"), "train", "--device", "cuda",
             "--model.name", model, "--data.format", "synthetic", "--data.shape", shape, "--data.classes", str(CLASSES),
             "--data.samples", str(batch * 8), "--train.global_batch", str(batch), "--train.slices", "1",
             "--train.steps", str(steps), "--train.precision", "bf16", "--optimizer.momentum", "0.9",
             "--log.every_steps", "5", "--run.dir", os.path.join(folder, "run")],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=280)
        if out.returncode != 0:
            raise SystemExit(f"lockstep train {model} ended with {out.returncode}:\n{out.stdout[-2000:]}")
        with open(os.path.join(folder, "run", "metrics.jsonl")) as f:
            rates = [r["samples_per_second"] for r in map(json.loads, f) if "samples_per_second" in r]
        return statistics.median(rates[len(rates) // 2:])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def torch_rate(model, shape, batch, steps, compiled):
    import torch
    import torchvision

    net = getattr(torchvision.models, model)(num_classes=CLASSES)
    if model == "resnet18":  # Lockstep's is the one for small images: a 3x3 stem and no first pool
        net.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
        net.maxpool = torch.nn.Identity()
    net = net.cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, fused=True)
    x = torch.randn(batch, *map(int, shape.split("x")), device="cuda").to(memory_format=torch.channels_last)
    y = torch.randint(0, CLASSES, (batch,), device="cuda")
    run = torch.compile(net) if compiled else net
    rates = []
    for step in range(steps):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(run(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        torch.cuda.synchronize()
        rates.append(batch / (time.perf_counter() - begin))
    return statistics.median(rates[len(rates) // 2:])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--peak", type=float, default=989e12, help="bf16 FLOP/s of the device (H100 SXM: 989e12)")
    a = parser.parse_args()
    import torch

    lines = [f"# One GPU, {datetime.date.today()}", "",
             f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}, "
             f"cuDNN {torch.backends.cudnn.version()}. Samples a second, bf16; medians of {a.turns} turns.", "",
             "| workload | batch | Lockstep | PyTorch eager | PyTorch compiled | ratio to the better | share of peak |",
             "|---|---|---|---|---|---|---|"]
    for name, model, shape, batch, steps, flops in WORKLOADS:
        ours, eager, compiled = [], [], []
        for _ in range(a.turns):
            ours.append(lockstep(a.build, model, shape, batch, steps))
            eager.append(torch_rate(model, shape, batch, steps, False))
            try:
                compiled.append(torch_rate(model, shape, batch, steps, True))
            except Exception as e:  # a release that cannot compile here is compared without it
                print("torch.compile left out:", e)
        middle = statistics.median
        best = max([middle(eager)] + ([middle(compiled)] if compiled else []))
        # The backward pass costs about twice the forward pass.
        share = f"{middle(ours) * 3 * flops / a.peak:.1%}" if flops else ""
        lines.append(f"| {name} {shape} | {batch} | {middle(ours):.0f} | {middle(eager):.0f} | "
                     f"{middle(compiled) if compiled else float('nan'):.0f} | {middle(ours) / best:.2f} | {share} |")
    with open(a.output, "w") as f:
        f.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
