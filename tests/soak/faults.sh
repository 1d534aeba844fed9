# The faults of soak.sh. Sourced by it.
# shellcheck shell=bash disable=SC2154,SC2034

declare -A struck=()  # how often each kind came
kinds=()              # those that are possible here
schedule=()           # the kinds in their order

# Rounds in which each kind comes once, and kills three times; enough of them for hours.
draw_schedule() {
  local round i kept
  kinds=(kill kill kill stop mpirun flip resize)
  [ $has_hosts -eq 0 ] || kinds+=(blip cut)
  [ $has_disk -eq 0 ] || kinds+=(disk)
  for ((round = 0; round < 200; ++round)); do
    local deck=("${kinds[@]}")
    for ((i = ${#deck[@]} - 1; i > 0; --i)); do
      draw $((i + 1))
      kept=${deck[i]} deck[i]=${deck[drawn]} deck[drawn]=$kept
    done
    schedule+=("${deck[@]}")
  done
}

ranks() { pgrep -f "^$program train .*--run.dir $run( |\$)" || true; }
launcher() { pgrep -f "^mpirun .*--run.dir $run( |\$)" || true; }
nap() { sleep "$(($1 / 1000)).$(printf %03d $(($1 % 1000)))"; }
is_gone() { case $(cut -d ' ' -f 3 "/proc/$1/stat" 2>/dev/null) in ''|Z) return 0 ;; *) return 1 ;; esac; }
gone_within() {
  local i
  for ((i = $1 * 5; i > 0; --i)); do
    is_gone "$2" && return 0
    sleep 0.2
  done
  return 1
}

# The next fault of the schedule, at a random moment of the job that runs.
disturb() {
  local kind=${schedule[0]:-kill} i victims victim delay
  draw 3500
  delay=$drawn
  draw 64
  # From the moment that the job's ranks stand.
  for ((i = 0; i < 150; ++i)); do
    kill -0 "$job" 2>/dev/null || return 0
    mapfile -t victims < <(ranks)
    [ ${#victims[@]} -lt "$n" ] || break
    # After a cut fewer may stand.
    [ $i -lt 60 ] || [ ${#victims[@]} -eq 0 ] || break
    sleep 0.1
  done
  nap "$delay"
  mapfile -t victims < <(ranks)
  if [ ${#victims[@]} -eq 0 ] || ! kill -0 "$job" 2>/dev/null; then return 0; fi
  victim=${victims[drawn % ${#victims[@]}]}
  # What needs a job in full swing waits for its second checkpoint.
  case $kind in
    flip) [ "$(checkpoints | wc -l)" -ge 2 ] || { sleep 1; [ "$(checkpoints | wc -l)" -ge 2 ] || return 0; } ;;
    # A rank alone has no peer that could notice, nor a link.
    cut | blip | stop) [ "$n" -ge 2 ] || kind="kill" ;;
  esac
  schedule=("${schedule[@]:1}")
  struck[$kind]=$((${struck[$kind]:-0} + 1))
  say "fault: $kind"
  "fault_$kind" "$victim" "${victims[@]}"
}

fault_kill() { kill -KILL "$1" 2>/dev/null; gone_within 20 "$1"; }

# The watchdog has to notice it: its time-out is 3 s.
fault_stop() {
  kill -STOP "$1" 2>/dev/null
  if ! gone_within 60 "$1"; then
    # Nobody is left to notice the last rank of a training that is done: docs/reliability.md, "What is not promised".
    if [ -e "$run/model.safetensors" ] && [ "$(ranks)" = "$1" ]; then
      leaving=$((leaving + 1))
      say "a rank was stopped while it left as the last one"
    else
      unnoticed=$((unnoticed + 1))
      say "a stopped rank was not noticed within 60 s"
    fi
    kill -CONT "$1"
  fi
}

fault_mpirun() {
  local pid
  pid=$(launcher)
  [ -z "$pid" ] || { kill -KILL "$pid" 2>/dev/null; gone_within 20 "$1"; }
}

# A short break of the link heals by itself.
fault_blip() {
  "$here/../netns/cut.sh" "$hosts" down
  sleep 1.5
  "$here/../netns/cut.sh" "$hosts" up
  sleep 2
}

# A long one ends the job, which goes on on the first host.
fault_cut() {
  local pid
  pid=$(launcher)
  "$here/../netns/cut.sh" "$hosts" down
  if [ -n "$pid" ] && ! gone_within 60 "${pid%%[!0-9]*}"; then
    unnoticed=$((unnoticed + 1))
    say "a cut link was not noticed within 60 s"
  fi
  # Long enough for the check of the hosts to find the second one missing.
  sleep 8
  "$here/../netns/cut.sh" "$hosts" up
}

fault_resize() {
  kill -TERM "$job" 2>/dev/null
  gone_within 90 "$job" || { broken=$((broken + 1)); say "lockstep-run did not end on SIGTERM"; kill -KILL "$job"; }
}

checkpoints() { ls -d "$run"/checkpoints/gen-*/step-*/ 2>/dev/null; }

# One bit of one file of the newest checkpoint, and a kill, so that it is read. The job stands still meanwhile: the file
# is not one that is being replaced.
fault_flip() {
  local dir files file size at byte
  shift
  kill -STOP "$@" 2>/dev/null
  dir=$(checkpoints | tail -n 1)
  mapfile -t files < <(find "$dir" -type f | sort)
  if [ ${#files[@]} -gt 0 ]; then
    draw ${#files[@]}
    file=${files[drawn]}
    size=$(stat -c %s "$file")
    draw "$size"
    at=$drawn
    draw 8
    byte=$(od -An -tu1 -j "$at" -N 1 "$file")
    # shellcheck disable=SC2059
    printf "\\$(printf %03o $((byte ^ (1 << drawn))))" | dd of="$file" bs=1 seek="$at" conv=notrunc status=none
    say "flipped bit $drawn of byte $at of ${file#"$run"/}"
  fi
  kill -KILL "$@" 2>/dev/null
  gone_within 20 "$1"
}

fault_disk() {
  dd if=/dev/zero of="$work/disk/filler" bs=64k status=none 2>/dev/null
  sleep 4
  rm -f "$work/disk/filler"
}
