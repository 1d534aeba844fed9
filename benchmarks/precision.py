#!/usr/bin/env python3
"""Trains in fp32 and in bf16 from the same seeds, and writes the test accuracy of both as Markdown. The difference of
the means is to be held against how far seeds differ.

Started by hand: benchmarks/precision.py --build build [--seeds 5] [--cases "mlp;resnet18"]. It needs Fashion-MNIST
(Debian's dataset-fashion-mnist) and a processor with avx512_bf16 or AMX."""
import argparse
import datetime
import json
import os
import re
import statistics
import subprocess
import tempfile

from compare import HERE, machine

CONFIGS = os.path.join(HERE, "..", "configs")
# name: config, flags. The quickstart's recipe of data, but the network and the optimizer of resnet18_synthetic.
RESNET18 = ["--model.name", "resnet18", "--model.layers", "", "--optimizer.name", "sgd", "--optimizer.lr", "0.05",
            "--optimizer.weight_decay", "0.0005", "--optimizer.momentum", "0.9", "--train.global_batch", "64",
            "--train.slices", "4", "--schedule.warmup_steps", "50", "--data.validation_fraction", "0"]
CASES = {
    "mlp": ("mlp_softmax.ini", ["--train.epochs", "10"]),
    "fashion_cnn": ("fashion_cnn.ini", []),
    "resnet18": ("fashion_cnn.ini", RESNET18 + ["--train.epochs", "3"]),
    "resnet18, width 16": ("fashion_cnn.ini", RESNET18 + ["--model.width", "16", "--train.epochs", "0",
                                                          "--train.steps", "1400"]),
}


def train(a, case, precision, seed):
    config, flags = CASES[case]
    with tempfile.TemporaryDirectory(prefix="precision-") as folder:
        run = os.path.join(folder, "run")
        subprocess.run([os.path.join(a.build, "lockstep"), "train", "--config", os.path.join(CONFIGS, config), *flags,
                        "--train.precision", precision, "--run.seed", str(seed), "--run.dir", run],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        lines = [json.loads(line) for line in open(os.path.join(run, "metrics.jsonl"))]
    return 100 * next(line["accuracy"] for line in lines if line["kind"] == "test")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default=os.path.join(HERE, "..", "build"))
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--cases", default=";".join(CASES), help="separated by semicolons")
    p.add_argument("--output", help="file instead of benchmarks/results/<date>-bf16-<processor>.md")
    a = p.parse_args()
    name = machine()
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    today = datetime.date.today().isoformat()
    lines = [f"# bf16 beside fp32 on {name}, {today}", "",
             "Test accuracy in percent on Fashion-MNIST, one figure a seed. Written by `benchmarks/precision.py`.", "",
             "| model | fp32 | bf16 | means | difference |", "|---|---|---|---|---|"]
    for case in a.cases.split(";"):
        found = {precision: [train(a, case, precision, seed) for seed in range(1, a.seeds + 1)]
                 for precision in ("fp32", "bf16")}
        means = {precision: statistics.mean(values) for precision, values in found.items()}
        told = {precision: ", ".join(f"{v:.2f}" for v in values) for precision, values in found.items()}
        lines.append(f"| {case} | {told['fp32']} | {told['bf16']} | {means['fp32']:.2f}, {means['bf16']:.2f} | "
                     f"**{means['bf16'] - means['fp32']:+.2f}** |")
        print(lines[-1], flush=True)
    path = a.output or os.path.join(HERE, "results", f"{today}-bf16-{slug}.md")
    with open(path, "w") as out:
        out.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
