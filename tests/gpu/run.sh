#!/usr/bin/env bash
# Builds Lockstep with CUDA and runs everything that needs a GPU, on any host with one, package archive or not: where the
# folder .gpu-bundle (made elsewhere by tests/gpu/bundle.sh, or named by LOCKSTEP_BUNDLE) lies beside the sources, nothing
# is installed.
#   ./tests/gpu/run.sh first             one call that ends by itself within 540 s, the most valuable first (first.py)
#   ./tests/gpu/run.sh more SECONDS      a second one into what is left
#   ./tests/gpu/run.sh [build] [tests] [sanitizer] [runs] [benchmark]      without a limit; default: all, in this order
# BUILD names the build folder (build-gpu), RESULTS the folder for logs ($OUT, else BUILD/results), TURNS how often the
# benchmark takes turns (5). Exits non-zero when anything failed; every part runs all the same.
set -uo pipefail
begun=$(date +%s.%N)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. launch/packages.sh
build=${BUILD:-build-gpu}
mkdir -p "$build"
results=${RESULTS:-${OUT:-$build/results}}
mkdir -p "$results"
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(build tests sanitizer runs benchmark)
bundle=${LOCKSTEP_BUNDLE:-.gpu-bundle}
export LOCKSTEP_REQUIRE=gpu
allow_mpi_as_root
jobs=$(nproc)
failed=()

# Calls that end by themselves. All is counted from the start of this script; first.py ends everything in time, and
# timeout only ends first.py should it not.
case ${1:-} in
  first|more)
    seconds=540
    if [ "$1" = more ]; then seconds=${2:-}; fi
    case $seconds in ''|*[!0-9]*) echo "run.sh $1 needs the seconds that are left, e.g. run.sh more 200" >&2; exit 2 ;; esac
    if [ $# -gt 2 ] || { [ "$1" = first ] && [ $# -gt 1 ]; }; then echo "run.sh $1 stands alone; what is \"${*: -1}\"?" >&2; exit 2; fi
    if [ "$seconds" -lt 20 ]; then echo "run.sh $1 needs at least 20 seconds" >&2; exit 2; fi
    # Nothing is installed: a machine that is lent reaches no archive, and whatever is missing a stage says.
    # shellcheck source=/dev/null
    if [ -e "$bundle/env.sh" ]; then . "$bundle/env.sh"; fi
    left=$(awk -v all="$seconds" -v scale="${LOCKSTEP_STAGE_SCALE:-1}" -v begun="$begun" -v now="$(date +%s.%N)" 'BEGIN { left = all * scale - (now - begun) - 2 * scale; print left < 1 ? 1 : left }')
    exec timeout -k 2 "$left" python3 tests/gpu/first.py "$1" "$seconds" --build "$build" --results "$results" --begun "$begun"
    ;;
esac

if [ -e "$bundle/env.sh" ]; then
  . "$bundle/env.sh"
else
  install_missing "${lockstep_build_packages[@]}" "${lockstep_test_packages[@]}" || exit 1
  install_cuda_libraries || exit 1
fi
python=${LOCKSTEP_BENCH_PYTHON:-python3}
step() { echo "== $*"; }

build_all() {
  local generator=()
  command -v ninja >/dev/null && generator=(-G Ninja)
  # Only for the GPUs that are here: that builds several times as fast. A compiler that warns of something new is no
  # reason not to measure.
  local capability
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d '.')
  cmake -S . -B "$build" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DLOCKSTEP_CUDA=ON -DLOCKSTEP_BUILD_TESTS=ON \
    -DLOCKSTEP_BUILD_BENCHMARKS=ON -DLOCKSTEP_WERROR=OFF ${capability:+-DCMAKE_CUDA_ARCHITECTURES=$capability-real} >"$results/configure.log" 2>&1 ||
    { tail -30 "$results/configure.log"; return 1; }
  cmake --build "$build" -j "$jobs" >"$results/build.log" 2>&1 || { grep -E 'error|FAILED' "$results/build.log" | head -40; return 1; }
}

# sanitize_one CHECK LOG PROGRAM TESTS
sanitize_one() {
  local options=()
  # Every call is checked by Lockstep itself, and one test asks for too much memory on purpose.
  [ "$1" != memcheck ] || options=(--report-api-errors no)
  if ! "$tool" --tool "$1" --target-processes application-only "${options[@]}" --error-exitcode 9 \
    "$3" --gtest_brief=1 --gtest_filter="$4" >"$results/$2.log" 2>&1; then
    echo "$2:"
    tail -20 "$results/$2.log"
    return 1
  fi
  # A filter that fits nothing would pass.
  grep -q 'PASSED  *\] [1-9]' "$results/$2.log" || { echo "$2: no test ran"; return 1; }
}

gpu_tests() { ctest --test-dir "$build" -L gpu --output-on-failure -j 1 --output-log "$results/tests.log"; }

# The small cases: kernels, memory, streams and exchanges of the program's own under every check, one small model under
# the one for memory. What cuDNN and cuBLASLt do inside is not looked at, nor are programs that a test starts.
sanitize() {
  local tool
  tool=$(PATH=$PATH:/usr/local/cuda/bin command -v compute-sanitizer) || {
    echo "compute-sanitizer is not on this host, so memory errors on the GPU were not looked for"
    return 1
  }
  local code=0 check
  for check in memcheck racecheck initcheck synccheck; do
    sanitize_one "$check" "$check" "$build/tests/gpu/gpu_tests" 'GpuMemory.*:GpuStream.*:GpuGraph.*:GpuKernels.*:GpuCounters.*:GpuSync.*' || code=1
  done
  sanitize_one memcheck memcheck-model "$build/tests/model/gpu_model_tests" '*.GradientsOfEveryOpMatchTheReference/cuda_fp32_uncaptured' || code=1
  return $code
}

# Whole runs of the program: the same digest with one rank and with two that share the GPU, graphs or not.
train() {
  local name=$1 ranks=$2
  shift 2
  mpirun -n "$ranks" --oversubscribe --bind-to none "$build/lockstep" train --config tests/gpu/small.ini --device cuda \
    --run.dir "$results/$name" --overwrite "$@" >"$results/$name.log" 2>&1 || { tail -5 "$results/$name.log"; return 1; }
}
runs() {
  "$build/lockstep" doctor >"$results/doctor.log" 2>&1 || true
  cat "$results/doctor.log"
  train one 1 && train again 1 && train plain 1 --device.graph false && train shared 2 --device.share || return 1
  local name wanted
  wanted=$("$build/lockstep" digest "$results/one" | cut -c1-64)
  for name in again plain shared; do
    if [ "$("$build/lockstep" digest "$results/$name" | cut -c1-64)" != "$wanted" ]; then
      echo "the run \"$name\" ended in other bits than \"one\""
      return 1
    fi
  done
  echo "digest of all runs: $wanted"
  # What one run has measured, the next one takes, on two ranks too.
  local tuning=(--device.autotune true --device.plan_cache "$results/plans.txt")
  rm -f "$results/plans.txt"
  train tuned 1 "${tuning[@]}" && train remembered 2 --device.share "${tuning[@]}" || return 1
  grep -h autotuning: "$results/tuned.log" "$results/remembered.log"
  if [ "$("$build/lockstep" digest "$results/tuned" | cut -c1-64)" != "$("$build/lockstep" digest "$results/remembered" | cut -c1-64)" ]; then
    echo "the run \"remembered\" ended in other bits than \"tuned\""
    return 1
  fi
}

benchmark() {
  "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null || {
    echo "$python has no PyTorch that sees a GPU (LOCKSTEP_BENCH_PYTHON names another), so there is nothing to compare with"
    return 1
  }
  "$python" tests/gpu/benchmark.py --build "$build" --turns "${TURNS:-5}" --output "$results/benchmark.md" && cat "$results/benchmark.md"
}

for part in "${parts[@]}"; do
  step "$part"
  case $part in
    build) build_all || { echo "the build failed; see $results"; exit 1; } ;;
    tests) gpu_tests || failed+=(tests) ;;
    sanitizer) sanitize || failed+=(sanitizer) ;;
    runs) runs || failed+=(runs) ;;
    benchmark) benchmark || failed+=(benchmark) ;;
    *) echo "unknown part \"$part\": build, tests, sanitizer, runs, benchmark" >&2; exit 2 ;;
  esac
done
{ date -u; nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null; } >"$results/where.txt"
if [ ${#failed[@]} -gt 0 ]; then echo "failed: ${failed[*]}"; exit 1; fi
echo "all passed; the logs lie in $results"
