#!/usr/bin/env bash
# Installs what is missing, builds everything, and runs every test.
#   ./tests/run.sh [ctest arguments]       e.g. -R Optimizer
# A test whose means are missing is skipped and says why. LOCKSTEP_REQUIRE=MEANS[,MEANS…] turns the skips for these
# means into failures: data (Fashion-MNIST), mount (a small file system of one's own), netns (two hosts made of network
# namespaces), slurm (a cluster of one's own). The last three need root.
# Where the CUDA toolkit is, CUDA is compiled and linked too; LOCKSTEP_CUDA=OFF leaves it out. Tests that need a GPU are
# skipped without one (LOCKSTEP_REQUIRE=gpu: fail); tests/gpu/run.sh runs them and more.
# LOCKSTEP_SANITIZERS=0 leaves out the sanitizer builds; so do ctest arguments. LOCKSTEP_SANITIZERS=full adds the
# layers model and trainer to core under the address and undefined-behaviour sanitizers, which takes ten minutes more.
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
cmake --preset release -DLOCKSTEP_CUDA="$cuda" -DLOCKSTEP_BUILD_TESTS=ON -DLOCKSTEP_BUILD_BENCHMARKS=ON
cmake --build build -j "$jobs"

if [ "${LOCKSTEP_SANITIZERS:-1}" != 0 ] && [ $# -eq 0 ]; then
  # The communicator under a thread sanitizer; readers of hostile files under address and undefined-behaviour sanitizers.
  cmake --preset tsan -DLOCKSTEP_BUILD_BENCHMARKS=OFF
  cmake --build build-tsan -j "$jobs" --target comm_tests
  build-tsan/tests/comm/comm_tests --gtest_brief=1
  cmake --preset asan-ubsan -DLOCKSTEP_BUILD_BENCHMARKS=OFF
  layers=(core)
  [ "${LOCKSTEP_SANITIZERS:-1}" != full ] || layers=(core model trainer)
  cmake --build build-asan-ubsan -j "$jobs" --target "${layers[@]/%/_tests}"
  for layer in "${layers[@]}"; do build-asan-ubsan/tests/$layer/${layer}_tests --gtest_brief=1; done
fi

if [ $# -gt 0 ]; then exec ctest --test-dir build --output-on-failure -j "$jobs" "$@"; fi
# What stops, kills and cuts processes runs against real clocks: one of these tests may need another try, which shows.
# Everything else must pass at once, above all where bits are compared.
clocks='^(Hang|StoppedRun|StoppedHosts|StoppedUnderSlurm|Faults|LostHost|Slurm/Batch|Soak|Preemption|PreemptionUnderSlurm|Stragglers|Fencing)\.'
code=0
ctest --test-dir build --output-on-failure -j "$jobs" -E "$clocks" || code=$?
ctest --test-dir build --output-on-failure -j "$jobs" -R "$clocks" --repeat until-pass:3 || code=$?
exit $code
