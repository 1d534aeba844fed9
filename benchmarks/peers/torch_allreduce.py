#!/usr/bin/env python3
"""How long PyTorch's all_reduce takes to sum a float32 buffer over all ranks (NCCL on GPUs, gloo on CPUs).

  python torch_allreduce.py --ranks 8 --device cuda --mib 25

A turn's time is that of the slowest rank, from a barrier until its device has the sum. Prints one JSON line."""
import argparse
import json
import os
import statistics
import sys
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--ranks", type=int, default=2)
parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
parser.add_argument("--mib", type=float, default=25)
parser.add_argument("--turns", type=int, default=21)
a = parser.parse_args()

if "RANK" not in os.environ:  # the launcher: never loads torch
    from launch import launch
    sys.exit(launch(os.path.abspath(__file__), sys.argv[1:], a.ranks, 1, 300))

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
device = torch.device("cpu")
if a.device == "cuda":
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
dist.init_process_group("nccl" if a.device == "cuda" else "gloo", rank=rank, world_size=ranks)
data = torch.empty(int(a.mib * 262144), device=device)
slowest = torch.zeros(1, device=device, dtype=torch.float64)


def synchronize():
    if a.device == "cuda":
        torch.cuda.synchronize()


seconds = []
for turn in range(a.turns + 3):
    data.fill_(rank + 1)
    synchronize()
    dist.barrier()
    synchronize()
    begin = time.perf_counter()
    dist.all_reduce(data)
    synchronize()
    slowest[0] = time.perf_counter() - begin
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    if turn >= 3:
        seconds.append(slowest.item())
assert data[0].item() == ranks * (ranks + 1) / 2
if rank == 0:
    median = statistics.median(seconds)
    print(json.dumps({"framework": "torch", "version": torch.__version__, "ranks": ranks, "mib": a.mib,
                      "median_us": round(1e6 * median, 1),
                      "bus_gb_per_s": round(2 * (ranks - 1) / ranks * data.numel() * 4e-9 / median, 2)}), flush=True)
dist.barrier()
sys.stdout.flush()
os._exit(0)
