#!/usr/bin/env bash
# Installs what is missing, builds Lockstep, and trains configs/fashion_cnn.ini on 2 ranks on Fashion-MNIST. Where a GPU
# is visible and what CUDA needs is there, it is built with CUDA.
#   ./launch/quickstart.sh [arguments of `lockstep train`]      e.g. --train.epochs 1
# LOCKSTEP_RANKS sets the number of ranks (default 2).
set -euo pipefail
# To what is started here a standard descriptor that is closed is /dev/null; else the next file to be opened would have
# its number, as this script itself has by now.
for fd in 0 1 2; do
  if [ ! -e /dev/fd/$fd ] || [ /dev/fd/$fd -ef "${BASH_SOURCE[0]}" ]; then eval "exec $fd<>/dev/null"; fi
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/packages.sh

install_missing "${lockstep_build_packages[@]}" "${lockstep_data_packages[@]}"
cuda=()
if has_gpu; then
  install_cuda_libraries || echo "Going on without CUDA: the CPU trains." >&2
  cuda=(-DLOCKSTEP_CUDA=AUTO)
elif [ ! -e build/CMakeCache.txt ]; then
  cuda=(-DLOCKSTEP_CUDA=OFF)
fi
echo "Building Lockstep …"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { cmake --preset release "${cuda[@]}" -DLOCKSTEP_BUILD_TESTS=OFF -DLOCKSTEP_BUILD_BENCHMARKS=OFF &&
       cmake --build build --target lockstep -j "$(nproc)"; } >"$log" 2>&1; then
  tail -n 40 "$log" >&2
  echo "The build failed; the last lines are above." >&2
  exit 1
fi
rm -f "$log"

allow_mpi_as_root
ranks=${LOCKSTEP_RANKS:-2}
run=runs/fashion_cnn
# A directory that holds an earlier quickstart is not overwritten: the next one gets a number, unless the user chose.
case " $* " in
  *" --run.dir "*|*" --run.dir="*|*" --resume "*|*" --overwrite "*) where=() ;;
  *) n=1; while [ -e "$run" ]; do n=$((n + 1)); run=runs/fashion_cnn-$n; done; where=(--run.dir "$run") ;;
esac
# Open MPI counts cores, not hardware threads: on a machine with two threads on one core it has one slot.
exec mpirun -n "$ranks" --oversubscribe --bind-to none build/lockstep train --config configs/fashion_cnn.ini "${where[@]}" "$@"
