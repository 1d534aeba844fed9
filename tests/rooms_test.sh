#!/usr/bin/env bash
# Whether tests/rooms.sh finds what is wrong: in made-up folders, each with one fault.
set -euo pipefail
rooms=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/rooms.sh
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failures=0

# begin: a folder in order, but for the exceptions, which it does not need.
begin() {
  rm -rf "${folder:?}"/*
  mkdir -p "$folder"/src/{core/numerics,model/ops/linear,model/plan,comm,data} "$folder/tests"
  touch "$folder"/src/core/text.h "$folder"/src/core/numerics/tree.h "$folder"/src/comm/world.h \
    "$folder"/src/data/dataset.h "$folder"/src/model/plan/plan.h
  printf '#include "core/text.h"\n#include <vector>\n' >"$folder/src/model/ops/linear/dense.cpp"
}

# expect NAME TEXT: the script names this fault; with an empty TEXT none but superfluous exceptions.
expect() {
  local out
  out=$("$rooms" "$folder" | grep -v 'no longer needed') || true
  if { [ -n "$2" ] && [[ $out != *"$2"* ]]; } || { [ -z "$2" ] && [ -n "$out" ]; }; then
    echo "$1: expected '$2', found '$out'"
    failures=$((failures + 1))
  fi
}

begin
expect order ''
begin
echo '#include "core/numerics/tree.h"' >"$folder/src/core/text.h"
expect upwards 'src/core/text.h: core may not include core/numerics/tree.h'
begin
echo '#include "model/plan/plan.h"' >>"$folder/src/model/ops/linear/dense.cpp"
expect 'upwards from a folder without a line' 'model/ops/linear may not include model/plan/plan.h'
begin
echo '#include "comm/world.h"' >>"$folder/src/model/plan/plan.h"
expect strangers 'src/model/plan/plan.h: model does not know comm'
begin
echo '#include "model/plan/plan.h"' >>"$folder/src/data/dataset.h"
expect 'data and model' 'src/data/dataset.h: data does not know model'
begin
yes '// a line' | head -n 401 >"$folder/tests/long_test.cpp" || true
expect 'a long file' 'tests/long_test.cpp: it has 401 lines'
begin
for i in $(seq 24); do touch "$folder/src/comm/part$i.h" "$folder/src/comm/part$i.cpp"; done
expect 'a full folder' 'src/comm: it holds 25 parts'
begin
out=$(LOCKSTEP_ROOMS_EXCEPTIONS='include src/core/batch.h core/numerics/tree.h   a reason' "$rooms" "$folder") || true
if [[ $out != *'no longer needed, take it out: include src/core/batch.h'* ]]; then
  echo "an exception that is not needed was not named"
  failures=$((failures + 1))
fi
if "$rooms" "$folder/src/core" 2>/dev/null; then
  echo "a folder without src/ was taken"
  failures=$((failures + 1))
fi
exit $((failures > 0))
