#!/usr/bin/env bash
# An answer in less than a minute from a finished build: the tests of the parts, each program a process, and a run of
# the whole program on 1, 2 and 3 ranks whose digests are compared. Of the longest programs a part of the cases, which
# one the commit decides. Started by tests/run.sh quick.
#   quick.sh BUILD_DIR
set -euo pipefail
export LC_ALL=C  # a point in the numbers of the clock
build=$1
jobs=$(nproc)
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

# one NAME PROGRAM [arguments]: a line with the verdict; of a failure all of its output.
one() {
  local name=$1 begin=$EPOCHREALTIME code=0 log=$logs/$1 seconds
  shift
  timeout 120 "$@" >"$log" 2>&1 || code=$?
  seconds=$(awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
  if [ $code -eq 0 ]; then
    # A program without a single test proves nothing.
    local passed
    passed=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1/p' "$log" | tail -1)
    [ "${passed:-0}" -gt 0 ] && { echo "$name: $passed tests passed, $seconds s"; return 0; }
  fi
  { cat "$log"; echo "$name: FAILED with exit code $code, $seconds s"; } >&2
  return 1
}
export -f one
export logs

code=0
# part N: variables that make a test program run one Nth of its cases.
part() { echo "env GTEST_TOTAL_SHARDS=$1 GTEST_SHARD_INDEX=$((${LOCKSTEP_TESTS_TURN:-0} % $1))"; }
# Seconds of work each.
slow=DamagedCheckpoints.*:StepsInFlight.*:WholeSteps.*:DeviceStepTest.*
# The longest first.
xargs -P "$jobs" -d '\n' -I{} bash -c 'one {}' <<EOF || code=1
model_tests $(part 4) $build/tests/model/model_tests
comm_tests $(part 2) $build/tests/comm/comm_tests
trainer_tests $build/tests/trainer/trainer_tests --gtest_filter=-$slow
cli_tests $build/tests/cli/cli_tests --gtest_filter=Train.SameDigest*:Readme.*:Pages.*
core_tests $build/tests/core/core_tests
device_tests $build/tests/device/device_tests
EOF
[ $code -eq 0 ] && echo "All passed. ./tests/run.sh runs everything."
exit $code
