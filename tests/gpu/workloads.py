"""What is trained to compare Lockstep and PyTorch on a GPU, and how each is started. Used by benchmark.py and first.py."""
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PEERS = os.path.join(ROOT, "benchmarks", "peers")
# Batch per rank, timed steps, and FLOPs of one sample's forward pass (multiply and add counted apart).
WORKLOADS = {
    "mlp": (128, 200, 11.6e6),
    "keras_cnn": (64, 200, 0.5e6),
    "resnet18_cifar": (256, 60, 1.11e9),
    "resnet50": (256, 40, 8.2e9),
}
# PyTorch has these; Lockstep's program says if it has not.
LATER_WORKLOADS = {"gpt_6x384": (64, 60, 0)}


def size(workload):
    return (WORKLOADS.get(workload) or LATER_WORKLOADS[workload])[:2]


def lockstep(build, workload, *more, ranks=1, slices=None, steps=None, launcher=None):
    """On one rank the program is started bare: then nothing depends on mpirun."""
    batch, timed = size(workload)
    if launcher is None:
        launcher = [] if ranks == 1 else ["mpirun", "-n", str(ranks), "--oversubscribe", "--bind-to", "none"]
    return [*launcher, os.path.join(build, "benchmarks", "train_bench"), "--workload", workload, "--device", "cuda",
            "--precision", "bf16", "--batch", str(batch), "--slices", str(slices or ranks), "--warmup", "20",
            "--steps", str(steps or timed), "--in_flight", "20", *more]


def torch(workload, *more, ranks=1, steps=None, python=sys.executable):
    batch, timed = size(workload)
    shape = [] if workload == "mlp" or workload.startswith("gpt") else ["--channels-last"]
    return [python, os.path.join(PEERS, "torch_bench.py"), "--workload", workload, "--device", "cuda", "--dtype", "bf16",
            "--fused", *shape, "--ranks", str(ranks), "--batch", str(batch), "--warmup", "10", "--steps",
            str(steps or timed), "--timeout", "110", *([] if ranks > 1 else ["--no-ddp"]), *more]
