#!/usr/bin/env bash
# Installs what is missing, builds everything, and runs every test.
#   ./tests/run.sh [ctest arguments]       e.g. -R Optimizer
# LOCKSTEP_SANITIZERS=0 leaves out the sanitizer builds. LOCKSTEP_REQUIRE=netns,gpu,… turns the skips of tests
# whose means are missing into failures.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/packages.sh

install_missing "${lockstep_build_packages[@]}" "${lockstep_data_packages[@]}" "${lockstep_test_packages[@]}"
allow_mpi_as_root
jobs=$(nproc)
cmake --preset release -DLOCKSTEP_BUILD_TESTS=ON -DLOCKSTEP_BUILD_BENCHMARKS=ON
cmake --build build -j "$jobs"

if [ "${LOCKSTEP_SANITIZERS:-1}" != 0 ] && [ $# -eq 0 ]; then
  # The communicator under a thread sanitizer; readers of hostile files under address and undefined-behaviour sanitizers.
  cmake --preset tsan -DLOCKSTEP_BUILD_BENCHMARKS=OFF
  cmake --build build-tsan -j "$jobs" --target comm_tests
  build-tsan/tests/comm/comm_tests --gtest_brief=1
  cmake --preset asan-ubsan -DLOCKSTEP_BUILD_BENCHMARKS=OFF
  cmake --build build-asan-ubsan -j "$jobs" --target core_tests model_tests trainer_tests
  for layer in core model trainer; do build-asan-ubsan/tests/$layer/${layer}_tests --gtest_brief=1; done
fi

ctest --test-dir build --output-on-failure -j "$jobs" "$@"
