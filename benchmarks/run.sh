#!/usr/bin/env bash
# Measures Lockstep against the newest PyTorch CPU release, in turns on this machine, and writes
# benchmarks/results/<date>-<host's processor>.md. Installs PyTorch into a virtual environment of its own.
#   benchmarks/run.sh [arguments of compare.py]      e.g. --turns 7 --workloads mlp
# LOCKSTEP_BENCH_PYTHON names a Python that has torch, to save the installation.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/packages.sh

install_missing "${lockstep_build_packages[@]}" python3 python3-venv
allow_mpi_as_root
cmake --preset release -DLOCKSTEP_BUILD_BENCHMARKS=ON >/dev/null
cmake --build build --target train_bench allreduce_bench -j "$(nproc)" >/dev/null

python=${LOCKSTEP_BENCH_PYTHON:-}
if [ -z "$python" ]; then
  [ -x .venv-benchmarks/bin/python ] || python3 -m venv .venv-benchmarks
  python=$PWD/.venv-benchmarks/bin/python
  "$python" -c 'import torch, numpy' 2>/dev/null || "$python" -m pip install --quiet torch numpy
fi
mkdir -p benchmarks/results
exec "$python" benchmarks/compare.py --build build "$@"
