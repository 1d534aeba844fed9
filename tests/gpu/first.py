#!/usr/bin/env python3
"""What is done first on a GPU that is lent for minutes: `first`, one call of at most 540 s, and `more SECONDS`, a second
one into what is left. Started by run.sh. The most valuable comes first, and every prefix is of use: the folder of results
holds log.txt, results.md and plans.txt whenever the call is ended. Exit code 0 when all stages passed, else 1."""
import argparse
import datetime
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time

import workloads
from stages import Call, Ended, tell

FIRST_SECONDS = 540
TARGETS = ["lockstep", "gpu_tests", "gpu_model_tests", "gpu_trainer_tests", "digest_program", "train_bench"]
SMALL_CASES = "GpuMemory.*:GpuStream.*:GpuGraph.*:GpuKernels.*:GpuCounters.*:GpuSync.*"
TWO_RANKS = ["mpirun", "-n", "2", "--oversubscribe", "--bind-to", "none"]


class Session:
    """The programs and what was learnt of them, shared by the stages."""

    def __init__(self, call, build, python):
        self.call, self.table, self.build, self.python = call, call.table, build, python
        self.work = os.path.join(build, "first")  # what does not come back
        os.makedirs(self.work, exist_ok=True)
        self.plans = os.path.join(build, "plans.txt")
        call.mirror(self.plans, "plans.txt")
        self.smoke = True  # PyTorch runs while Lockstep is built
        self.times = {}  # (workload, way) -> milliseconds
        self.versions = self.table.section("Versions", "of", "text")
        self.steps = self.table.section(
            "Training steps, bf16, one rank, milliseconds (a ratio above 1: Lockstep is faster)", "workload", "Lockstep",
            "PyTorch", "ratio", "samples/s", "note")

    def program(self, *parts):
        return os.path.join(self.build, *parts)

    # ---- versions and build ----

    def show_versions(self, stage):
        path = os.environ["PATH"] + ":/usr/local/cuda/bin"
        nvcc = shutil.which("nvcc", path=path) or "nvcc"
        asked = {
            "GPU": ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap,memory.total,power.limit,clocks.max.sm",
                    "--format=csv,noheader"],
            "nvcc": [nvcc, "--version"],
            "CMake": ["cmake", "--version"],
            "compiler": ["c++", "--version"],
            "PyTorch": [self.python, "-c", "import torch; print(torch.__version__, torch.version.cuda, "
                        "torch.backends.cudnn.version(), torch.cuda.get_device_name())"],
            "mpirun": [*TWO_RANKS, "hostname"],
        }
        for name, running in {name: stage.start(name, argv, 30) for name, argv in asked.items()}.items():
            stage.failed(running.wait())
            lines = [line for line in running.lines("out", 50) if line.strip()]
            text = {"nvcc": lines[-2:-1], "CMake": lines[:1], "compiler": lines[:1], "GPU": lines[:8]}.get(name, lines[-2:])
            self.table.row(self.versions, name, "; ".join(text) if running.rc == 0 else f"failed with {running.rc}")

    def build_all(self, stage):
        smoke = stage.start("torch", workloads.torch("resnet50", python=self.python)) if self.smoke else None
        asked = stage.run("capability", ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"], limit=20)
        capability = (asked.lines("out", 8) or [""])[0]
        architecture = capability.strip().replace(".", "")
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        # Only for the GPU that is here: that builds several times as fast. A warning is no reason not to measure.
        configured = stage.run("configure", [
            "cmake", "-S", workloads.ROOT, "-B", self.build, *generator, "-DCMAKE_BUILD_TYPE=Release", "-DLOCKSTEP_CUDA=ON",
            "-DLOCKSTEP_BUILD_TESTS=ON", "-DLOCKSTEP_BUILD_BENCHMARKS=ON", "-DLOCKSTEP_WERROR=OFF",
            *([f"-DCMAKE_CUDA_ARCHITECTURES={architecture}-real"] if architecture.isdigit() else [])])
        if configured.rc == 0:
            # What one target lacks, another may not need.
            on = ["-k", "0"] if generator else ["-k"]
            stage.run("compile", ["cmake", "--build", self.build, "-j", str(os.cpu_count()), "--target", *TARGETS, "--", *on],
                      limit=600)
        if smoke:
            stage.failed(smoke.wait())
            self.note_torch("resnet50", smoke, "while Lockstep was built")

    # ---- tests ----

    def gtest(self, stage, name, program, tests="*", env=None, prefix=(), limit=None):
        """A test program by itself; `tests`: --gtest_filter."""
        return stage.start(name, [*prefix, self.program("tests", *program), f"--gtest_filter={tests}"], limit,
                           {"LOCKSTEP_REQUIRE": "gpu", **(env or {})})

    def judge(self, stage, running, name):
        rc = running.wait()
        lines = running.lines("out", 5000)
        passed = sum(int(m[1]) for line in lines if (m := re.match(r"\[  PASSED  \] (\d+) test", line)))
        broken = [m[1] for line in lines if (m := re.match(r"\[  FAILED  \] (\S+?),? ", line + " ")) and "." in m[1]]
        begun = [line for line in lines if line.startswith("[ RUN      ]")]
        note = ", ".join(dict.fromkeys(broken))[:300]
        if rc not in (0, 1) and begun:
            note += f" it ended in {begun[-1][13:]}"
        if rc == 0 and passed == 0:
            rc, note = 1, "no test ran"  # a filter that fits nothing would pass
        stage.failed(rc)
        section = self.table.section("Tests", "tests", "code", "passed", "seconds", "note")
        self.table.row(section, name, rc, passed, f"{running.seconds:.1f}", note)

    def one_by_one(self, stage, cases, limit):
        for name, tests in cases.items():
            self.judge(stage, self.gtest(stage, name, ("gpu", "gpu_tests"), tests, limit=limit), f"{stage.name} {name}")

    def basics(self, stage):
        self.one_by_one(stage, {"memory": "GpuMemory.*:GpuStream.*:GpuGraph.*", "kernels": "GpuKernels.*:GpuCounters.*"}, 45)
        nccl = self.gtest(stage, "nccl", ("gpu", "gpu_tests"), "GpuNccl.OneRank*", limit=45)
        self.judge(stage, nccl, "basics nccl")
        self.one_by_one(stage, {"sync": "GpuSync.*", "genstats": "GpuGenStats.*"}, 45)
        if nccl.rc in (0, 127):
            return
        # A container may forbid NCCL's way to take memory; then what follows takes the other one.
        without = {"NCCL_CUMEM_ENABLE": "0"}
        again = self.gtest(stage, "nccl-without-cumem", ("gpu", "gpu_tests"), "GpuNccl.OneRank*", env=without, limit=30)
        self.judge(stage, again, "basics nccl, NCCL_CUMEM_ENABLE=0")
        if again.rc == 0:
            stage.note = "NCCL works here only with NCCL_CUMEM_ENABLE=0, which the stages behind this one have"
            os.environ.update(without)

    def side_by_side(self, stage, program, processes):
        shards = [self.gtest(stage, str(i), program, env={"GTEST_TOTAL_SHARDS": str(processes), "GTEST_SHARD_INDEX": str(i)})
                  for i in range(processes)]
        for i, shard in enumerate(shards):
            self.judge(stage, shard, f"{program[-1]}, part {i + 1} of {processes}")

    def model_tests(self, stage):
        self.side_by_side(stage, ("model", "gpu_model_tests"), 7)

    def trainer_tests(self, stage):
        self.side_by_side(stage, ("trainer", "gpu_trainer_tests"), 4)

    def placement(self, stage):
        self.one_by_one(stage, {"cnn": "*GpuPlacement.EndsInOneDigest/cnn", "mlp": "*GpuPlacement.EndsInOneDigest/mlp",
                                "augmented": "*GpuPlacement.EndsInOneDigest/augmented",
                                "others": "*GpuPlacement.Another*"}, 120)

    def sanitize(self, stage, check, small=SMALL_CASES, model=False):
        tool = shutil.which("compute-sanitizer", path=os.environ["PATH"] + ":/usr/local/cuda/bin")
        if tool is None:
            stage.failed(127)
            stage.note = "compute-sanitizer is not on this machine"
            return
        # Every call is checked by Lockstep itself, and one test asks for too much memory on purpose.
        quiet = ["--report-api-errors", "no"] if check == "memcheck" else []
        prefix = [tool, "--tool", check, "--target-processes", "application-only", *quiet, "--error-exitcode", "9"]
        cases = [(("gpu", "gpu_tests"), small)]
        if model:
            cases.append((("model", "gpu_model_tests"), "*.GradientsOfEveryOpMatchTheReference/cuda_fp32_uncaptured"))
        for program, tests in cases:
            self.judge(stage, self.gtest(stage, program[-1], program, tests, prefix=prefix), f"{check} {program[-1]}")

    # ---- whole runs ----

    def train(self, stage, name, *more, launcher=()):
        folder = os.path.join(self.work, name.replace(" ", "-"))
        lockstep = self.program("lockstep")
        trained = stage.run(name.replace(" ", "-"), [
            *launcher, lockstep, "train", "--config", os.path.join(workloads.ROOT, "tests", "gpu", "small.ini"), "--device",
            "cuda", "--run.dir", folder, "--overwrite", *more], limit=40)
        digest = ""
        if trained.rc == 0:
            told = stage.run("digest", [lockstep, "digest", folder])
            digest = told.lines("out", 50)[0][:64] if told.rc == 0 and told.lines("out", 50) else ""
        section = self.table.section("Digests", "run", "code", "seconds", "digest")
        self.table.row(section, name, trained.rc, f"{trained.seconds:.1f}", digest)
        return digest

    def digests(self, stage):
        def compare(wanted, digests):
            other = [name for name, digest in digests.items() if digest != wanted]
            if not wanted or other:
                stage.failed(1)
                stage.note += f"other bits than the first, or none: {', '.join(other) or 'all'}. "

        wanted = self.train(stage, "once")
        compare(wanted, {
            "again": self.train(stage, "again"), "plain": self.train(stage, "plain", "--device.graph", "false"),
            "shared by 2": self.train(stage, "shared by 2", "--device.share", launcher=TWO_RANKS)})
        bf16 = ("--train.precision", "bf16")
        compare(self.train(stage, "bf16", *bf16),
                {"bf16 shared by 2": self.train(stage, "bf16 shared by 2", *bf16, "--device.share", launcher=TWO_RANKS)})

    # ---- times ----

    def note_ours(self, workload, running, row=None, theirs=None):
        told, row = running.json(), row or workload
        if running.rc != 0 or not told:
            self.table.row(self.steps, row, f"failed with {running.rc}")
            return None
        ms = float(told["median_ms"])
        self.times.setdefault((row, "ours"), []).append(ms)
        self.table.row(self.steps, row, f"{statistics.median(self.times[row, 'ours']):.3f}", None, None,
                       f"{told['samples_per_s']:.0f}")
        self.note_ratio(row)
        return ms

    def note_torch(self, workload, running, note=None, row=None):
        told, row = running.json(), row or workload
        if running.rc != 0 or not told or "median_ms" not in told:
            self.table.row(self.steps, row, None, f"failed with {running.rc}", None, None, note)
            return
        if note is None:  # the machine was quiet
            self.times.setdefault((row, "theirs"), []).append(float(told["median_ms"]))
            self.table.row(self.steps, row, None, f"{statistics.median(self.times[row, 'theirs']):.3f}", None, None, "")
            self.note_ratio(row)
        else:
            self.table.row(self.steps, row, None, f"{told['median_ms']:.3f}", None, None, note)

    def note_ratio(self, row):
        ours, theirs = (self.times.get((row, way)) for way in ("ours", "theirs"))
        if ours and theirs:
            turns = f"{min(len(ours), len(theirs))} turns" if len(ours) > 1 else ""
            self.table.row(self.steps, row, None, None, f"{statistics.median(theirs) / statistics.median(ours):.2f}", None,
                           turns)

    def pair(self, stage, workload):
        mine = stage.run(f"lockstep-{workload}", workloads.lockstep(self.build, workload), limit=60)
        self.note_ours(workload, mine)
        self.note_torch(workload, stage.run(f"torch-{workload}", workloads.torch(workload, python=self.python), limit=60))

    def times_beside_eager(self, stage):
        for workload in ("resnet50", "resnet18_cifar", "mlp", "keras_cnn"):
            self.pair(stage, workload)

    def tuned(self, stage, workload):
        row = f"{workload}, autotuned"
        command = workloads.lockstep(self.build, workload, "--autotune", "true", "--plan_cache", self.plans)
        self.note_ours(workload, stage.run(f"lockstep-{workload}", command), row)

    def autotune(self, stage):
        self.judge(stage, self.gtest(stage, "alone", ("gpu", "gpu_tests"), "GpuAutotune.*"), "GpuAutotune")
        self.tuned(stage, "resnet18_cifar")

    def tuned_resnet50(self, stage):
        self.tuned(stage, "resnet50")
        told = stage.run("torch-resnet50", workloads.torch("resnet50", python=self.python))
        self.note_torch("resnet50", told, row="resnet50, autotuned")

    def compiled(self, stage):
        told = stage.run("torch-resnet50", workloads.torch("resnet50", "--compile", python=self.python))
        self.note_torch("resnet50", told, row="resnet50, PyTorch compiled")

    def gpt(self, stage):
        workload = "gpt_6x384"
        running = stage.run("lockstep", workloads.lockstep(self.build, workload), quiet=True)
        if running.rc != 0 and any("is none of" in line for line in running.lines("err", 30)):
            stage.note = "train_bench has no GPT"
            return
        stage.failed(running.rc)
        self.note_ours(workload, running)
        self.note_torch(workload, stage.run("torch", workloads.torch(workload, python=self.python)))

    def turns(self, stage):
        for _ in range(20):
            for workload in ("resnet50", "resnet18_cifar", "mlp", "keras_cnn"):
                if stage.left() < 15 * self.call.scale:
                    return
                self.pair(stage, workload)

    def memory(self, stage):
        """In runs that nobody times, since nvidia-smi is started beside them."""
        section = self.table.section("Most memory in use on the GPU, MiB", "workload", "Lockstep", "PyTorch")
        for workload in ("resnet50", "resnet18_cifar"):
            for column, command in enumerate((workloads.lockstep(self.build, workload, steps=5),
                                              workloads.torch(workload, steps=5, python=self.python))):
                used = MemoryWatch()
                with used:
                    rc = stage.run(("lockstep-", "torch-")[column] + workload, command).rc
                self.table.row(section, workload, *([None] * column), used.mib if rc == 0 else f"failed with {rc}")


class MemoryWatch:
    """The most MiB in use on the first GPU that programs see while it is open, above what was in use before. It starts
    nvidia-smi several times a second: no run under it is timed."""

    def __enter__(self):
        self.before = self.most = self.used()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join(5)
        self.mib = self.most - self.before

    @staticmethod
    def used():
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        try:
            out = subprocess.run(["nvidia-smi", "-i", seen, "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=5, check=False)
            return int(out.stdout.split()[0])
        except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
            return 0

    def look(self):
        while not self.done.wait(0.2):
            self.most = max(self.most, self.used())


def first_stages(s):
    return [("versions", 60, s.show_versions), ("build", 270, s.build_all), ("basics", 120, s.basics),
            ("digests", 90, s.digests), ("times", 200, s.times_beside_eager), ("model-tests", 120, s.model_tests),
            ("autotune", 120, s.autotune), ("memcheck", 120, lambda stage: s.sanitize(stage, "memcheck", model=True)),
            ("placement", 200, s.placement), ("trainer-tests", 120, s.trainer_tests), ("memory", 120, s.memory)]


def more_stages(s):
    s.smoke = False
    return [("build", 240, s.build_all), ("autotuned-resnet50", 120, s.tuned_resnet50), ("compile", 120, s.compiled),
            ("gpt", 120, s.gpt), ("racecheck", 120, lambda stage: s.sanitize(stage, "racecheck")),
            ("initcheck", 120, lambda stage: s.sanitize(stage, "initcheck")), ("turns", 3600, s.turns)]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["first", "more"])
    p.add_argument("seconds", type=int, nargs="?", help="of the whole call; default for first: 540")
    p.add_argument("--build", required=True)
    p.add_argument("--results", required=True)
    p.add_argument("--begun", type=float, default=None, help="when the call began, by the wall clock")
    a = p.parse_args()
    if a.what == "more" and a.seconds is None:
        p.error("more needs the seconds that are left, e.g. more 200")
    seconds = a.seconds or FIRST_SECONDS
    if not 20 <= seconds <= 86400:
        p.error(f"{seconds} seconds: give 20 to 86400")
    scale = float(os.environ.get("LOCKSTEP_STAGE_SCALE", "1"))
    if a.begun:
        seconds -= min(max(0.0, time.time() - a.begun), seconds - 5) / scale
    call = Call(a.results, f"Lockstep on a GPU, {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC, "
                f"run.sh {a.what}", seconds, scale)
    session = Session(call, os.path.abspath(a.build), os.environ.get("LOCKSTEP_BENCH_PYTHON", "python3"))
    stages = (first_stages if a.what == "first" else more_stages)(session)
    try:
        for stage in stages:
            call.stage(*stage)
    except Ended as e:
        sys.stdout.flush()
        return 128 + e.args[0]
    tell(call.table.text())
    rows = call.table.sections[call.stages][1]
    return 0 if all(cells[0] == "0" for cells in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
