#!/usr/bin/env bash
# Installs what is missing, builds everything, and runs every test.
#   ./tests/run.sh                     all of it
#   ./tests/run.sh quick               builds, and runs the tests of the parts and one of the whole: less than a minute
#   ./tests/run.sh [ctest arguments]   e.g. -R Optimizer
# At the end stand the ten slowest tests and ctest's own closing lines. The exit code is 0 when all tests passed.
# A test whose means are missing is skipped and says why. LOCKSTEP_REQUIRE=MEANS[,MEANS…] turns the skips for these
# means into failures: bf16 (a processor with avx512_bf16 or AMX), data (Fashion-MNIST), mount (a small file system of
# one's own), netns (two hosts made of network namespaces), slurm (a cluster of one's own). The last three need root.
# Where the CUDA toolkit is, CUDA is compiled and linked too; LOCKSTEP_CUDA=OFF leaves it out. Tests that need a GPU are
# skipped without one (LOCKSTEP_REQUIRE=gpu: fail); tests/gpu/run.sh runs them and more.
# LOCKSTEP_SANITIZERS=0 leaves out the sanitizer builds; so do quick and ctest arguments. LOCKSTEP_SANITIZERS=full adds
# the layers model and trainer to core under the address and undefined-behaviour sanitizers, which takes ten minutes more.
# LOCKSTEP_TESTS=full takes all cases of the tests that strike at each of many calls; else a part of them is taken, which
# one the commit decides (tests/support/turns.h). LOCKSTEP_TESTS_TURN=N takes those of turn N.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/packages.sh

install_missing "${lockstep_build_packages[@]}" "${lockstep_test_packages[@]}"
install_missing "${lockstep_data_packages[@]}" "${lockstep_testbed_packages[@]}" ||
  echo "Going on without them: tests that need them are skipped." >&2
cuda=${LOCKSTEP_CUDA:-AUTO}
if [ "$cuda" != OFF ] && has_cuda_toolkit; then
  cuda=ON
  install_cuda_libraries || echo "The build below says what CUDA lacks; LOCKSTEP_CUDA=OFF ./tests/run.sh goes without." >&2
fi
allow_mpi_as_root
jobs=$(nproc)
# Where ccache is there, a second build costs little.
if command -v ccache >/dev/null; then export CMAKE_CXX_COMPILER_LAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER:-ccache} CMAKE_CUDA_COMPILER_LAUNCHER=${CMAKE_CUDA_COMPILER_LAUNCHER:-ccache}; fi
export LOCKSTEP_TESTS_TURN=${LOCKSTEP_TESTS_TURN:-$((0x$(git rev-parse --short=7 HEAD 2>/dev/null || echo 0)))}
cmake --preset release -DLOCKSTEP_CUDA="$cuda" -DLOCKSTEP_BUILD_TESTS=ON -DLOCKSTEP_BUILD_BENCHMARKS=ON
cmake --build build -j "$jobs"

# run_ctest ARGUMENTS…: ctest with the slowest tests before its closing lines; its exit code.
run_ctest() {
  local code
  set +e
  ctest --test-dir build --no-tests=error --output-on-failure -j $((2 * jobs)) "$@" | awk -f tests/slowest.awk  # slots: tests/weights.cmake
  code=${PIPESTATUS[0]}
  set -e
  awk -f tests/skipped.awk build/Testing/Temporary/LastTest.log || true
  return "$code"
}

if [ "${1:-}" = quick ]; then
  [ $# -eq 1 ] || { echo "usage: ./tests/run.sh quick, without more arguments" >&2; exit 2; }
  exec tests/quick.sh build
fi
if [ $# -gt 0 ]; then
  code=0
  run_ctest "$@" || code=$?
  exit "$code"
fi

if [ "${LOCKSTEP_SANITIZERS:-1}" != 0 ]; then
  # The communicator under a thread sanitizer; readers of hostile files under address and undefined-behaviour sanitizers.
  # The first runs while the second is compiled.
  cmake --preset tsan -DLOCKSTEP_BUILD_BENCHMARKS=OFF
  cmake --build build-tsan -j "$jobs" --target comm_tests
  build-tsan/tests/comm/comm_tests --gtest_brief=1 >build-tsan/comm_tests.log 2>&1 &
  tsan=$!
  trap 'kill "$tsan" 2>/dev/null || true' EXIT
  cmake --preset asan-ubsan -DLOCKSTEP_BUILD_BENCHMARKS=OFF
  layers=(core)
  [ "${LOCKSTEP_SANITIZERS:-1}" != full ] || layers=(core model trainer)
  cmake --build build-asan-ubsan -j "$jobs" --target "${layers[@]/%/_tests}"
  for layer in "${layers[@]}"; do build-asan-ubsan/tests/$layer/${layer}_tests --gtest_brief=1; done
  code=0
  wait "$tsan" || code=$?
  trap - EXIT
  cat build-tsan/comm_tests.log
  [ "$code" -eq 0 ] || { echo "comm_tests fails under the thread sanitizer (exit code $code)" >&2; exit "$code"; }
fi

# What stops, kills and cuts processes runs against real clocks: one of these tests may need another try, which shows.
# Everything else must pass at once, above all where bits are compared.
clocks='^(Hang|StoppedRun|StoppedHosts|StoppedUnderSlurm|Faults|LostHost|Slurm/Batch|Soak|Preemption|PreemptionUnderSlurm|Stragglers|Fencing|GpuCall|Interrupt)\.'
echo "Tests at each of many calls: ${LOCKSTEP_TESTS:-turn $LOCKSTEP_TESTS_TURN} (LOCKSTEP_TESTS_TURN, LOCKSTEP_TESTS=full)"
code=0
run_ctest || code=$?
failed=build/Testing/Temporary/LastTestsFailed.log
if [ "$code" -ne 0 ] && [ -s "$failed" ] && ! sed 's/^[0-9]*://' "$failed" | grep -qvE "$clocks"; then
  echo "Only tests against real clocks failed. Once more:"
  code=0
  run_ctest --rerun-failed --repeat until-pass:2 || code=$?
fi
exit "$code"
