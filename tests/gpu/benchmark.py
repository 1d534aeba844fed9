#!/usr/bin/env python3
"""Training steps and the sum of gradients on GPUs, Lockstep and PyTorch in turns (A B A B ...), as Markdown. Started by
run.sh.

Both train the same models on made batches, and both measure which kernels are fast (device.autotune, cudnn.benchmark). PyTorch: bf16 by autocast, channels_last, fused optimizer, eager and
compiled, the better of the two; its batches lie on the GPU from the start, so that it pays for no loading, and Lockstep
does. With several GPUs both run with one rank on each, PyTorch as DistributedDataParallel with NCCL. A ratio above 1 means
that Lockstep is faster."""
import argparse
import datetime
import os
import statistics
import subprocess
import sys
import threading

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "benchmarks"))
from compare import ratio_row, run_json  # noqa: E402

PEERS = os.path.join(ROOT, "benchmarks", "peers")
# Batch per rank, timed steps, and FLOPs of one sample's forward pass (multiply and add counted apart).
WORKLOADS = {
    "mlp": (128, 200, 11.6e6),
    "keras_cnn": (64, 200, 0.5e6),
    "resnet18_cifar": (256, 60, 1.11e9),
    "resnet50": (256, 40, 8.2e9),
}


class MemoryWatch:
    """The most MiB in use on the first GPU that programs see while it is open, above what was in use before."""

    def __enter__(self):
        self.before = self.most = self.used()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.look)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        self.mib = self.most - self.before

    @staticmethod
    def used():
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        out = subprocess.run(["nvidia-smi", "-i", seen, "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
                             stdout=subprocess.PIPE, text=True)
        return int(out.stdout.split()[0]) if out.returncode == 0 and out.stdout.split() else 0

    def look(self):
        while not self.done.wait(0.2):
            self.most = max(self.most, self.used())


def watched(run):
    with MemoryWatch() as memory:
        told = run()
    told["gpu_mib"] = memory.mib
    return told


def ours(a, workload, ranks, slices=None, *more):
    batch, steps, _ = WORKLOADS[workload]
    return run_json(["mpirun", "-n", str(ranks), "--oversubscribe", "--bind-to", "none",
                     os.path.join(a.build, "benchmarks", "train_bench"), "--workload", workload, "--device", "cuda",
                     "--precision", "bf16", "--batch", str(batch), "--slices", str(slices or ranks), "--warmup", "20",
                     "--steps", str(steps), "--in_flight", "20", "--autotune", "true", *more])


def theirs(workload, ranks, *more):
    batch, steps, _ = WORKLOADS[workload]
    shape = [] if workload == "mlp" else ["--channels-last"]
    return run_json([sys.executable, os.path.join(PEERS, "torch_bench.py"), "--workload", workload, "--device", "cuda",
                     "--dtype", "bf16", "--fused", *shape, "--ranks", str(ranks), "--batch", str(batch), "--warmup", "10",
                     "--steps", str(steps), *([] if ranks > 1 else ["--no-ddp"]), *more])


def better_flags(workload, ranks):
    times = []
    for flags in ([], ["--compile"]):
        try:
            times.append((theirs(workload, ranks, *flags)["median_ms"], flags))
        except SystemExit as e:  # a release that cannot compile here is compared without it
            print("left out:", e, file=sys.stderr)
    return min(times)[1]


def steps(a, ranks, lines):
    lines += [f"## Training steps, bf16, {ranks} rank{'s' if ranks > 1 else ''}", "",
              "Medians over turns; the spread is the smallest and largest ratio of a turn. One slice a rank, so batch norm sees "
              "the rank's batch in both. Share of peak: three times the forward pass's FLOPs over the device's. Memory: the most "
              "in use on the GPU, all of it, as nvidia-smi shows it.", "",
              "| workload | batch a rank | Lockstep ms | PyTorch ms | ratio | spread | samples/s | share of peak | "
              "Lockstep MiB | PyTorch MiB | PyTorch |", "|---|---|---|---|---|---|---|---|---|---|---|"]
    for workload in a.workloads:
        batch, _, flops = WORKLOADS[workload]
        flags = better_flags(workload, ranks)
        mine, other = [], []
        for _ in range(a.turns):
            mine.append(watched(lambda: ours(a, workload, ranks)))
            other.append(watched(lambda: theirs(workload, ranks, *flags)))
        o, t, ratio, low, high = ratio_row([x["median_ms"] for x in mine], [x["median_ms"] for x in other])
        rate = batch * ranks / o * 1e3
        lines.append(f"| {workload} | {batch} | {o:.3f} | {t:.3f} | **{ratio:.2f}** | {low:.2f} to {high:.2f} | {rate:.0f} | "
                     f"{rate / ranks * 3 * flops / a.peak:.1%} | {max(x['gpu_mib'] for x in mine)} | "
                     f"{max(x['gpu_mib'] for x in other)} | {' '.join(flags) or 'eager'} |")
        print(lines[-1], flush=True)
    lines.append("")


def sums(a, ranks, lines):
    mine = [run_json(["mpirun", "-n", str(ranks), "--bind-to", "none",
                      os.path.join(a.build, "benchmarks", "device_sum_bench")]) for _ in range(a.turns)]
    other = [run_json([sys.executable, os.path.join(PEERS, "torch_allreduce.py"), "--ranks", str(ranks)])
             for _ in range(a.turns)]
    lines += [f"## The sum of 25 MiB over {ranks} GPUs", "", "| way | us | bus GB/s |", "|---|---|---|"]
    rows = [(way, [m[way] for m in mine]) for way in ("ordered", "ordered_sharded", "fast")]
    for name, told in rows + [("PyTorch all_reduce", other)]:
        us, rate = (statistics.median(t[key] for t in told) for key in ("median_us", "bus_gb_per_s"))
        lines.append(f"| {name} | {us:.0f} | {rate:.1f} |")
        print(lines[-1], flush=True)
    lines += ["", "## Ordered against fast", "", "| workload | ordered ms | fast ms | ordered / fast |", "|---|---|---|---|"]
    for workload in a.workloads:
        pairs = [(ours(a, workload, ranks, 4 * ranks)["median_ms"],
                  ours(a, workload, ranks, 4 * ranks, "--fast")["median_ms"]) for _ in range(a.turns)]
        o, f = (statistics.median(p[i] for p in pairs) for i in (0, 1))
        lines.append(f"| {workload} | {o:.3f} | {f:.3f} | {o / f:.3f} |")
        print(lines[-1], flush=True)
    lines.append("")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", required=True)
    p.add_argument("--output", required=True)
    p.add_argument("--turns", type=int, default=5)
    p.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    p.add_argument("--peak", type=float, default=989e12, help="bf16 FLOP/s of the device (H100 and H200 SXM: 989e12)")
    a = p.parse_args()
    a.build = os.path.abspath(a.build)
    import torch

    gpus = torch.cuda.device_count()
    lines = [f"# Lockstep and PyTorch on {torch.cuda.get_device_name()}, {datetime.date.today()}", "",
             f"{gpus} GPU{'s' if gpus > 1 else ''}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}, "
             f"cuDNN {torch.backends.cudnn.version()}, {a.turns} turns each.", ""]
    steps(a, 1, lines)
    if gpus > 1:
        steps(a, gpus, lines)
        sums(a, gpus, lines)
    else:
        lines += ["One GPU: nothing to sum between GPUs, so the all-reduce and `ordered` against `fast` are left out.", ""]
    with open(a.output, "w") as f:
        f.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
