#!/usr/bin/env bash
# Installs this build, moves the installation to a path with a blank, builds examples/ against it with nothing but
# find_package(lockstep), and trains the example's model on 1, 2 and 3 ranks: the digests must be equal. The README's own
# program is built and started too.
#   installed_test.sh CMAKE BUILD_DIR SOURCE_DIR GENERATOR CXX_COMPILER MPIEXEC
set -euo pipefail
cmake=$1 build=$2 source=$3 generator=$4 compiler=$5 mpiexec=$6
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }
quietly() { "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "$*"; }; }

quietly "$cmake" --install "$build" --prefix "$work/first"
prefix="$work/moved here"
mv "$work/first" "$prefix"
if grep -rlF -e "$source" -e "$build" -e "$work" "$prefix" --include='*.cmake' --include='*.h'; then
  fail "the package above names a folder of this machine"
fi

# Every installed header stands on its own, with no other include folders than those of the package.
cp -r "$source/examples" "$work/examples"
cat >>"$work/examples/CMakeLists.txt" <<'CMAKE'

file(GLOB_RECURSE headers RELATIVE "${LOCKSTEP_HEADERS}" "${LOCKSTEP_HEADERS}/*.h")
set(includes "")
foreach(header IN LISTS headers)
  string(APPEND includes "#include <lockstep/${header}>\n")
endforeach()
file(WRITE "${CMAKE_CURRENT_BINARY_DIR}/all_headers.cpp" "${includes}int all_headers() { return 0; }\n")
add_library(all_headers STATIC all_headers.cpp)
target_link_libraries(all_headers PRIVATE lockstep::trainer)

add_executable(mine mine.cpp)
CMAKE
block() { awk -v want="$1" '$0 == "```" want { on = 1; next } $0 == "```" { on = 0 } on' "$source/README.md"; }
block cpp >"$work/examples/mine.cpp"
block cmake >>"$work/examples/CMakeLists.txt"
grep -q run_application "$work/examples/mine.cpp" && grep -q '(mine ' <(block cmake) || fail "the README's program is not there"
quietly "$cmake" -S "$work/examples" -B "$work/build" -G "$generator" -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_PREFIX_PATH="$prefix" -DLOCKSTEP_HEADERS="$prefix/include/lockstep"
quietly "$cmake" --build "$work/build"

lockstep="$prefix/bin/lockstep"
config="$prefix/share/lockstep/examples/custom_model.ini"
train() {  # RANKS DIRECTORY [arguments]
  local ranks=$1 directory=$2
  shift 2
  quietly "$mpiexec" -n "$ranks" --oversubscribe --bind-to none "$work/build/custom_model" train --config "$config" \
    --run.dir "$work/$directory" "$@"
}
digest_of() { "$lockstep" digest --state "$work/$1" | cut -c1-64; }

train 1 one
want=$(digest_of one)
[ ${#want} -eq 64 ] || fail "no digest"
for ranks in 2 3; do
  train $ranks "on$ranks" --device.threads $((4 - ranks))
  [ "$(digest_of "on$ranks")" = "$want" ] || fail "$ranks ranks end in another digest than 1"
done
train 2 resumed --train.steps 5
quietly "$mpiexec" -n 3 --oversubscribe --bind-to none "$work/build/custom_model" train --resume \
  --run.dir "$work/resumed" --train.steps 0
[ "$(digest_of resumed)" = "$want" ] || fail "stopped on 2 ranks and resumed on 3 ends in another digest"
train 2 other --run.seed 2
[ "$(digest_of other)" != "$want" ] || fail "another seed ends in the same digest"

quietly "$work/build/mine" train --config "$config" --run.dir "$work/readme" --train.steps 2
"$lockstep" digest "$work/readme" | grep -qE '^[0-9a-f]{64}' || fail "the README's program leaves no digest"

# The program has the other commands too; `lockstep` itself says what it lacks.
"$work/build/custom_model" evaluate --run "$work/one" >"$work/log" || fail "evaluate"
grep -q accuracy "$work/log" || fail "evaluate prints no accuracy"
code=0
"$lockstep" evaluate --run "$work/one" >/dev/null 2>"$work/log" || code=$?
[ $code -eq 2 ] || fail "lockstep evaluated a graph that it cannot know: exit code $code"
grep -q 'model.name = custom' "$work/log" || fail "the message names no key: $(cat "$work/log")"

# A program shows its own name, and the launch scripts work from where they were installed.
for words in --help 'train --help'; do
  # shellcheck disable=SC2086
  "$work/build/custom_model" $words >"$work/log" || fail "custom_model $words"
  grep -q 'custom_model train' "$work/log" || fail "custom_model $words does not show the program's name"
  ! grep -q 'lockstep train' "$work/log" || fail "custom_model $words shows another program's name"
done
mkdir "$work/tmp"
export TMPDIR="$work/tmp"
(cd "$work" && quietly "$prefix/bin/lockstep-run" -n 2 -- "$work/build/custom_model" train --config "$config" --run.dir launched)
[ "$(digest_of launched)" = "$want" ] || fail "lockstep-run ends in another digest"
(cd "$work" && LOCKSTEP_RANKS=2 quietly "$prefix/share/lockstep/launch/workstation.sh" train --run.dir workstation \
  --model.layers 'flatten dense:3' --data.format synthetic --data.samples 64 --data.shape 4 --data.classes 3 \
  --train.epochs 1 --train.global_batch 32 --train.slices 4)
[ -e "$work/workstation/model.safetensors" ] || fail "workstation.sh trained nothing"
for script in slurm.sbatch slurm_srun.sbatch; do
  # Without Slurm's words there is nothing to train, which is said by slurm_job.sh.
  code=0
  (cd "$work" && SLURM_JOB_ID=1 LOCKSTEP_LAUNCH="$prefix/share/lockstep/launch" \
    bash "$prefix/share/lockstep/launch/$script" evaluate >"$work/log" 2>&1) || code=$?
  [ $code -eq 2 ] || fail "$script ended with $code: $(cat "$work/log")"
  grep -q 'give the words after' "$work/log" || fail "$script: $(cat "$work/log")"
done
echo "installed, built against, trained: one digest $want"
