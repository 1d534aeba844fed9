# What lockstep-run does on every host before a start and after the last end. It is fed to `sh`, here or through the
# agent that mpirun uses, below lines that set
#   dead_runs   ids of runs whose launcher is gone: what still runs under them is killed
#   dead_jobs   words PID:JOB, an mpirun that is gone and the number of its job in hexadecimal digits: their files go
#   binary      the program that is going to be started; empty: none
# and prints lines: "ended N", "alive PID …", "removed N", "cores N", "binary SUM BYTES" or "binary missing".
# shellcheck shell=sh disable=SC2154
LC_ALL=C
export LC_ALL
uid=$(id -u)
here=$(readlink /proc/self/ns/net 2>/dev/null)

# The processes of run $1 on this host. Every one has the id in its environment; whose environment may not be read is
# another user's. Containers and namespaces that play hosts see each other's processes, but have networks of their own.
of_run() {
  for file in $(grep -l -s -F "LOCKSTEP_RUN_ID=$1" /proc/[0-9]*/environ); do
    dir=${file%/environ}
    [ "$(readlink "$dir/ns/net" 2>/dev/null)" = "$here" ] || continue
    case $(cat "$dir/stat" 2>/dev/null) in ''|*') Z '*) continue ;; esac
    echo "${dir#/proc/}"
  done
}

ended=0
for id in $dead_runs; do
  tries=0
  while pids=$(of_run "$id") && [ -n "$pids" ]; do
    # First they may leave by themselves, as those do whose mpirun is gone; a process in the middle of a system call
    # takes a while to die.
    if [ $tries -ge 20 ]; then echo "alive $(echo $pids)"; break; fi
    if [ $tries -ge 2 ]; then
      for pid in $pids; do kill -KILL "$pid" 2>/dev/null && ended=$((ended + 1)); done
    fi
    tries=$((tries + 1))
    sleep 0.5
  done
done
[ $ended -eq 0 ] || echo "ended $ended"

# Whether any process has $1 mapped or open.
in_use() {
  grep -l -s -F "$1" /proc/[0-9]*/maps >/dev/null && return 0
  for fd in /proc/[0-9]*/fd/*; do [ "$(readlink "$fd" 2>/dev/null)" != "$1" ] || return 0; done
  return 1
}

# Segments carry the user and the job in their names: vader_segment.HOST.UID.JOB.RANK. The folders of Open MPI
# carry the user, and that of mpirun its pid.
removed=0
temporary=${TMPDIR:-/tmp}
for word in $dead_jobs; do
  pid=${word%%:*} job=${word##*:}
  # The number of a process that is gone may have been given to a new one.
  ! kill -0 "$pid" 2>/dev/null || continue
  if [ -n "$job" ]; then
    for file in /dev/shm/vader_segment.*."$uid"."$job".* /dev/shm/osc_sm.*."$job".*; do
      [ -f "$file" ] && [ -O "$file" ] && ! in_use "$file" && rm -f "$file" && removed=$((removed + 1))
    done
  fi
  for dir in "$temporary"/ompi.*."$uid"/pid."$pid" "$temporary"/ompi.*."$uid"/jf."$((0x${job:-0} >> 16))"; do
    [ -d "$dir" ] && [ -O "$dir" ] && rm -rf "$dir" && removed=$((removed + 1))
  done
  for dir in "$temporary"/ompi.*."$uid"; do rmdir "$dir" 2>/dev/null; done
done
[ $removed -eq 0 ] || echo "removed $removed"

echo "cores $(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)"
if [ -n "$binary" ]; then
  if sum=$(cksum <"$binary" 2>/dev/null); then echo "binary $sum"; else echo "binary missing"; fi
fi
