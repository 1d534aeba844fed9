#!/usr/bin/env bash
# Trains under lockstep-run while faults are drawn from a seed, and holds every finished training against the digest of
# the undisturbed one.
#   tests/soak/soak.sh [--seconds N] [--seed N] [--program FILE] [--report FILE.md] [--log FILE]
# Exit code 0: all digests were equal and nothing leaked; 1: not so; 77: nothing could be tried. As root it makes two
# hosts of network namespaces (tests/netns), whose link it cuts, and a small disk, which it fills; without root these
# faults are left out, and the report says so. The order of the faults follows from the seed; where in the training
# they strike depends on the machine.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/faults.sh"
. "$here/report.sh"

seconds=60 seed=$((RANDOM * 32768 + RANDOM)) program=$here/../../build/lockstep report='' log_to=''
while [ $# -gt 0 ]; do
  case $1 in
    --help|-h) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --seconds|--seed|--program|--report|--log) [ $# -ge 2 ] || { echo "soak.sh: error: $1 needs a value" >&2; exit 2; } ;;&
    --seconds) seconds=$2 ;;
    --seed) seed=$2 ;;
    --program) program=$2 ;;
    --report) report=$2 ;;
    --log) log_to=$2 ;;
    *) echo "soak.sh: error: $1 is not an option; --help lists them" >&2; exit 2 ;;
  esac
  shift 2
done
case $seconds$seed in *[!0-9]*) echo "soak.sh: error: --seconds and --seed are whole numbers" >&2; exit 2 ;; esac
[ -x "$program" ] || { echo "soak.sh: error: the program $program is not there; build it, or name it with --program" >&2; exit 2; }
program=$(readlink -f "$program")
command -v mpirun >/dev/null || { echo "soak.sh: there is no mpirun" >&2; exit 77; }

work=$(mktemp -d "${TMPDIR:-/tmp}/lockstep-soak-XXXXXX") || exit 1
mkdir "$work/tmp" "$work/disk"
export TMPDIR=$work/tmp
log=$work/log
hosts=lockstep-$$ has_hosts=0 has_disk=0 job='' sampler=''
segments_before=$(ls /dev/shm)

finish() {
  local pid
  [ -z "$sampler" ] || kill -KILL "$sampler" 2>/dev/null
  [ -z "$job" ] || kill -KILL "$job" 2>/dev/null
  for pid in $(ranks) $(pgrep -f "^mpirun .*$work" || true); do kill -KILL "$pid" 2>/dev/null; done
  [ $has_hosts -eq 0 ] || "$here/../netns/down.sh" "$hosts" 2>/dev/null
  [ $has_disk -eq 0 ] || umount -l "$work/disk"
  [ -z "$log_to" ] || cp "$log" "$log_to"
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

# RANDOM is bash's own generator; what is drawn depends on the seed alone.
RANDOM=$((seed % 32768))
[ "$seed" -lt 32768 ] || for ((i = seed / 32768 % 1000; i > 0; --i)); do : "$RANDOM"; done
# draw N: a number from 0 to N-1, into `drawn`. No subshell: it would draw from a copy of the generator.
draw() { drawn=$(((RANDOM * 32768 + RANDOM) % $1)); }

if [ "$(id -u)" -eq 0 ]; then
  if "$here/../netns/up.sh" "$hosts" 2>>"$log"; then has_hosts=1; fi
  if mount -t tmpfs -o size=24m tmpfs "$work/disk" 2>>"$log"; then has_disk=1; fi
fi
run=$work/disk/run

cat >"$work/soak.ini" <<'INI'
[model]
layers = conv:16x3,pad=1 bn relu maxpool:2 dropout:0.2 flatten dense:5
[data]
format = synthetic
samples = 9600
shape = 3x12x12
classes = 5
[train]
epochs = 0
global_batch = 48
slices = 12
[optimizer]
name = adamw
lr = 0.01
[log]
every_steps = 5
[checkpoint]
every_steps = 40
[watchdog]
timeout = 3
[device]
threads = 1
INI

# How many steps a training takes: on this machine, undisturbed and alone, a third of the whole time, at most 20 s.
words() { echo train --config "$work/soak.ini" --train.steps "$1" --run.dir "$2"; }
say() { echo "$(date -u +%H:%M:%S) $*" | tee -a "$log"; }
say "seed $seed, $seconds s, program $program"
began=$(date +%s%N)
# shellcheck disable=SC2046
"$program" $(words 300 "$work/trial") >>"$log" 2>&1 || { tail -n 5 "$log"; echo "soak.sh: error: the training does not run" >&2; exit 1; }
trial_ms=$((($(date +%s%N) - began) / 1000000 + 1))
whole_s=$((seconds / 4 < 20 ? seconds / 4 : 20))
steps=$((whole_s * 1000 * 300 / trial_ms / 40 * 40 + 200))
rm -rf "$work/trial"
# shellcheck disable=SC2046
"$program" $(words "$steps" "$work/reference") >>"$log" 2>&1 || exit 1
digest_of() { "$program" digest "$@" 2>>"$log" | cut -c 1-64; }
reference=$(digest_of "$work/reference" --state)
reference_weights=$(digest_of "$work/reference/model.safetensors")
[ ${#reference} -eq 64 ] || { echo "soak.sh: error: the digest of the undisturbed run is missing" >&2; exit 1; }
say "$steps steps a training, digest $reference"

start_job() {
  local command=("$here/../../launch/lockstep-run" -n "$1" --backoff 0 --max-restarts 30 --check-timeout 4 --grace 60)
  if [ $has_hosts -eq 1 ]; then
    command=("$here/../netns/on_a.sh" "$hosts" "${command[@]}" --host 10.77.0.1:2,10.77.0.2:2 --map-by node)
  fi
  # shellcheck disable=SC2046
  "${command[@]}" -- "$program" $(words "$steps" "$run") >>"$log" 2>&1 &
  job=$!
  say "lockstep-run $job on $1 ranks"
}

# What the log says of the training under way.
this_training() { tail -n "+$training_begins" "$log"; }
# The last checkpoint of a run that ended on a full disk is missing, as it said; the weights are there all the same.
same_bits() {
  [ "$(digest_of "$run" --state)" = "$reference" ] && return 0
  this_training | grep -q "step $steps: the checkpoint could not be saved" &&
    [ "$(digest_of "$run/model.safetensors")" = "$reference_weights" ]
}

trainings=0 equal=0 unequal=0 broken=0 unnoticed=0 leaving=0 no_room=0 code=0
draw_schedule
sample_forever &
sampler=$!
end=$(($(date +%s) + seconds))
while [ "$(date +%s)" -lt "$end" ]; do
  draw 4
  n=$((drawn + 1))
  training_begins=$(($(wc -l <"$log") + 1))
  start_job "$n"
  while :; do
    [ "$(date +%s)" -ge "$end" ] || disturb
    if [ "$(date +%s)" -ge "$end" ] || ! kill -0 "$job" 2>/dev/null; then
      wait "$job"
      code=$?
      job=
      # A run that cannot write its last files ends with 2 and asks for room; there is room again.
      if [ "$code" -eq 2 ] && this_training | tail -n 40 | grep -q 'No space left on device; make room'; then
        no_room=$((no_room + 1))
        say "there was no room for the last files: started again"
        start_job "$n"
        continue
      fi
      [ "$code" -eq 75 ] || break
      draw 3
      say "resize: $n to $(((n + drawn) % 4 + 1)) ranks"
      n=$(((n + drawn) % 4 + 1))
      start_job "$n"
    fi
  done
  trainings=$((trainings + 1))
  if [ "$code" -ne 0 ]; then
    broken=$((broken + 1))
    say "training $trainings ended with $code"
  elif same_bits; then
    equal=$((equal + 1))
    say "training $trainings: digest equal"
  else
    unequal=$((unequal + 1))
    say "training $trainings: digest differs: $(digest_of "$run" --state)"
  fi
  rm -rf "$run"
done
{ kill -KILL "$sampler"; wait "$sampler"; } 2>/dev/null
sampler=
check_leftovers
write_report >"$work/report.md"
cat "$work/report.md"
[ -z "$report" ] || cp "$work/report.md" "$report"
[ "$trainings" -gt 0 ] && [ "$equal" -eq "$trainings" ] && [ "$unnoticed" -eq 0 ] && [ -z "$left" ] && [ "$flat" = yes ]
