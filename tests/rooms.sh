#!/usr/bin/env bash
# The rooms of the house: which folder of src/ may include which, and how much a folder and a file may hold.
#   tests/rooms.sh [FOLDER]   FOLDER holds src/ and tests/; without it: this repository
# Prints a sentence for each fault and ends with 1 where there is one, with 2 where the folder is none.
# A new folder of src/ needs no line here while the folder above it has one: it then has that one's rank.
set -euo pipefail
cd "${1:-$(dirname "${BASH_SOURCE[0]}")/..}" || exit 2
if [ ! -d src ] || [ ! -d tests ]; then
  echo "rooms.sh: $PWD has no src/ and tests/" >&2
  exit 2
fi

most_lines=400
most_parts=24  # a .cpp and a .h of one name are one part

# Folders of src/, lowest first; those in one line have one rank. A folder may include its own rank and lower ones.
ranks='core
core/numerics
device
device/cuda
watch
comm comm/sync comm/mpi comm/threads comm/cuda
model/graph
model/ops
model/zoo
model/files
model/plan
model/cpu/onednn
model/cpu/kernels
model/cpu
model/cuda/kernels
model/cuda/plan
model/cuda/library
model/cuda/tuning
model/cuda/run
model/cuda
model
data
data/readers
optim
trainer/config
trainer/data
trainer/step
trainer/infer
trainer/checkpoint
trainer/guard
trainer/evaluate
trainer/run
trainer/cli
trainer
.'

# Who does not know whom, whatever the ranks say.
strangers='model comm
model watch
model data
data comm
data watch
data model
optim comm
optim watch
optim data'

# What stands against the rules today, and why. A line that is no longer needed is a fault.
#   include FILE HEADER   lines FILE   parts FOLDER
# Tests give their own.
exceptions=${LOCKSTEP_ROOMS_EXCEPTIONS-}

find src tests -type f \( -name '*.cpp' -o -name '*.h' -o -name '*.cu' \) | LC_ALL=C sort |
  awk -v ranks="$ranks" -v strangers="$strangers" -v exceptions="$exceptions" -v most_lines="$most_lines" \
    -v most_parts="$most_parts" '
  function folder(path) { return match(path, /\/[^\/]*$/) ? substr(path, 1, RSTART - 1) : "." }
  function fault(text) { print text; faults++ }
  # The rank of a folder, or of the nearest one above it that has one; 0: none has.
  function rank_of(room) {
    while (!(room in rank) && room != ".") room = folder(room)
    return rank[room] + 0
  }
  function inside(room, area) { return room == area || index(room, area "/") == 1 }
  function excepted(key) { if (!(key in reason)) return 0; used[key] = 1; return 1 }
  function look_at_include(file, header,   from, to, i) {
    if (!(("src/" header) in exists)) return
    from = folder(substr(file, 5)); to = folder(header)
    if (rank_of(to) > rank_of(from) && !excepted("include " file " " header))
      fault(file ": " from " may not include " header ": " to " lies above it (tests/rooms.sh has the order)")
    for (i = 1; i <= pairs; i++)
      if (inside(from, knower[i]) && inside(to, unknown[i]) && !excepted("include " file " " header))
        fault(file ": " knower[i] " does not know " unknown[i] ", but this includes " header)
  }
  function read_file(file,   line, n, parts) {
    n = 0
    while ((getline line < file) > 0) {
      n++
      if (file ~ /^src\// && line ~ /^#include "/) { split(line, parts, "\""); look_at_include(file, parts[2]) }
    }
    close(file)
    if (n > most_lines && !excepted("lines " file))
      fault(file ": it has " n " lines, and a file may have " most_lines ": split it by what it does")
  }
  { files[++count] = $0; exists[$0] = 1 }
  END {
    n = split(ranks, row, "\n")
    for (i = 1; i <= n; i++) { m = split(row[i], word, " "); for (k = 1; k <= m; k++) rank[word[k]] = i }
    pairs = split(strangers, row, "\n")
    for (i = 1; i <= pairs; i++) { split(row[i], word, " "); knower[i] = word[1]; unknown[i] = word[2] }
    n = split(exceptions, row, "\n")
    for (i = 1; i <= n; i++) {
      m = split(row[i], word, " ")
      reason[word[1] == "include" ? word[1] " " word[2] " " word[3] : word[1] " " word[2]] = row[i]
    }
    for (i = 1; i <= count; i++) {
      read_file(files[i])
      name = files[i]
      sub(/(\.inc)?\.(cpp|cu|h)$/, "", name)
      if (!(name in seen)) { seen[name] = 1; held[folder(name)]++ }
    }
    for (room in held)
      if (held[room] > most_parts && !excepted("parts " room))
        fault(room ": it holds " held[room] " parts (a .cpp and its .h are one), and a folder may hold " most_parts)
    for (key in reason)
      if (!(key in used)) fault("tests/rooms.sh: this exception is no longer needed, take it out: " reason[key])
    exit faults > 0
  }'
