#!/usr/bin/env bash
# Trains on this one machine: a rank for every GPU that may be used, or, without GPUs, for every core, as far as the
# batch has slices for them. Restarts after a fault, as lockstep-run does.
#   ./launch/workstation.sh [options of lockstep-run] train --config FILE [--section.key value …]
# Set before: LOCKSTEP (the program; default build/lockstep, or the installed one), LOCKSTEP_RANKS (another number of ranks).
set -euo pipefail
# To what is started here a standard descriptor that is closed is /dev/null; else the next file to be opened would have
# its number, as this script itself has by now.
for fd in 0 1 2; do
  if [ ! -e /dev/fd/$fd ] || [ /dev/fd/$fd -ef "${BASH_SOURCE[0]}" ]; then eval "exec $fd<>/dev/null"; fi
done
launch=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=launch/program.sh
. "$launch/program.sh"
lockstep=${LOCKSTEP:-$(default_program "$launch")}

# gpus: how many GPUs this process may use. CUDA reads CUDA_VISIBLE_DEVICES up to the first number that is not there.
gpus() {
  local there listed=0 word
  there=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ') || there=0
  if [ -z "${CUDA_VISIBLE_DEVICES+set}" ]; then echo "$there"; return; fi
  for word in ${CUDA_VISIBLE_DEVICES//,/ }; do
    case $word in
      -*) break ;;
      *[!0-9]*) ;;  # a GPU or a part of one by its UUID
      *) [ "$((10#$word))" -lt "$there" ] || break ;;
    esac
    listed=$((listed + 1))
  done
  [ "$there" -gt 0 ] || listed=0
  echo "$listed"
}

options=()
while [ $# -gt 0 ] && [ "$1" != train ]; do
  options+=("$1")
  shift
done
if [ $# -eq 0 ]; then
  case " ${options[*]-} " in
    *" --help "*|*" -h "*) sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
  esac
  echo "workstation.sh: error: give the words after \`lockstep\`, as in: $0 train --config FILE" >&2
  exit 2
fi
# A rank needs a slice to compute; only the program knows how many there are.
ranks_for_cores() {
  local words=() word plan slices folder program
  for word; do [ "$word" = --overwrite ] || words+=("$word"); done
  job_folder ${options[@]+"${options[@]}"}
  program=$(command -v -- "$lockstep") || program=$lockstep
  case $program in /*) ;; *) program=$PWD/$program ;; esac
  plan=$(cd "$folder" && "$program" "${words[@]}" --dry-run) || exit $?
  slices=$(sed -n 's/^batches: .* \([0-9]*\) slices\{0,1\} of .*/\1/p' <<<"$plan")
  echo "$((${slices:-1} < $(nproc) ? ${slices:-1} : $(nproc)))"
}

if [ -n "${LOCKSTEP_RANKS:-}" ]; then
  ranks=$LOCKSTEP_RANKS why=LOCKSTEP_RANKS
else
  ranks=$(gpus) why="one for each GPU"
  if [ "$ranks" -eq 0 ]; then
    ranks=$(ranks_for_cores "$@") || exit $?
    why="no GPU, $(nproc) cores"
  fi
fi
echo "workstation.sh: $ranks rank$([ "$ranks" = 1 ] || echo s) ($why)" >&2
exec "$launch/lockstep-run" -n "$ranks" ${options[@]+"${options[@]}"} -- "$lockstep" "$@"
