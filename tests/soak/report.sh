# What soak.sh measures beside the faults, and its report. Sourced by it.
# shellcheck shell=bash disable=SC2154,SC2034

# Whether rank 0 has listed this process in its table: all ranks have met, and the start is over.
is_listed() { grep -q -E "^[0-9]+ +[^ ]+ +$1 " "$log"; }

# A line a second for each process of the job: time, role, pid and start time (a pid may be used again), resident kB, open
# files. Ranks and mpirun count from the moment that the ranks have met: a link that is cut during the start makes that
# late, and what a process needs to begin with is no growth.
sample_forever() {
  trap - EXIT INT TERM
  local role pid born rss fds met
  while :; do
    met=0
    for role in rank mpirun lockstep-run; do
      case $role in
        rank) pids=$(ranks) ;;
        mpirun) pids=$(launcher) ;;
        lockstep-run) pids=$(pgrep -f "launch/lockstep-run .*--run.dir $run( |\$)" | head -n 1) ;;
      esac
      for pid in $pids; do
        case $role in
          rank) if is_listed "$pid"; then met=1; else continue; fi ;;
          mpirun) [ $met -eq 1 ] || continue ;;
        esac
        born=$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | cut -d ' ' -f 20)
        rss=$(awk '/^VmRSS/ { print $2 }' "/proc/$pid/status" 2>/dev/null)
        fds=$(ls "/proc/$pid/fd" 2>/dev/null | wc -l)
        [ -z "$rss" ] || [ "$fds" -eq 0 ] || echo "$(date +%s) $role $pid-$born $rss $fds" >>"$work/samples"
      done
    done
    sleep 1
  done
}

# Files in /dev/shm and in TMPDIR that were not there before and have no owner any more. Other jobs of this machine leave
# theirs too: where the job has hosts of its own, Open MPI's files bear their names.
check_leftovers() {
  local name i
  left=
  # Other jobs of this machine come and go.
  for ((i = 0; i < 20; ++i)); do
    left=$(for name in /dev/shm/*; do
      name=${name##*/}
      [ "$name" != '*' ] || continue
      case $name in vader_segment.*) [ $has_hosts -eq 0 ] || [[ $name == *"$hosts"* ]] || continue ;; esac
      grep -q -x -F "$name" <<<"$segments_before" || grep -l -s -F "/dev/shm/$name" /proc/[0-9]*/maps >/dev/null || echo "/dev/shm/$name"
    done)
    left+=$(find "$work/tmp" -mindepth 2 -maxdepth 2)
    [ -n "$left" ] || break
    sleep 0.5
  done
}

# By role: processes sampled for at least 8 s, and the most by which memory and open files grew from the third second of
# that on.
growth() {
  awk '{ key = $2 " " $3
         if (!(key in first)) { first[key] = $1; role[key] = $2 }
         if ($1 - first[key] >= 3) { if (!(key in rss)) { rss[key] = $4; fds[key] = $5 } last[key] = $1; rss_now[key] = $4; fds_now[key] = $5 } }
       END { for (k in last) if (last[k] - first[k] >= 8) {
               r = role[k]; count[r]++
               dr = rss_now[k] - rss[k]; df = fds_now[k] - fds[k]
               if (!(r in most) || dr > most[r]) most[r] = dr
               if (!(r in mostf) || df > mostf[r]) mostf[r] = df
               if (rss_now[k] > peak[r]) peak[r] = rss_now[k]
               if (last[k] - first[k] > age[r]) age[r] = last[k] - first[k] }
             for (r in count) print r, count[r], age[r], peak[r], most[r], mostf[r] }' "$work/samples" | sort
}

write_report() {
  local kind total=0 redone starts role count age peak rss fds
  starts=$(grep -c 'lockstep-run: .* start [0-9]*: ' "$log")
  redone=$(sed -n 's/.*it had reached step \([0-9]*\); what came after step \(-\{0,1\}[0-9]*\) is computed again/\1 \2/p' "$log" |
    awk '{ n += $1 - ($2 < 0 ? 0 : $2) } END { print n + 0 }')
  for kind in "${!struck[@]}"; do total=$((total + struck[$kind])); done
  flat=yes
  cat <<MD
# Soak: $total faults, $equal of $trainings digests equal

\`tests/soak/soak.sh --seconds $seconds --seed $seed\`, $(date -u +%Y-%m-%d), $(nproc) cores, $("$program" --version).
A training is $steps steps on 1 to 4 ranks, $([ $has_hosts -eq 1 ] && echo "on two hosts (network namespaces)" || echo "on one host"), saved every 40 steps, watchdog at 3 s.

| | |
|---|---|
| trainings finished | $trainings |
| digest equal to the undisturbed run's | $equal |
| digest different | $unequal |
| ended otherwise | $broken |
| started again when there was room for the last files | $no_room |
| faults that struck | $total |
| faults not noticed in time | $unnoticed |
| stopped while it left, as the last rank of a training that was done | $leaving |
| starts of the job | $starts |
| steps computed twice (to log.every_steps = 5) | $redone of $((trainings * steps)) |
| files left in /dev/shm and TMPDIR | $(if [ -z "$left" ]; then echo none; else echo "$left" | wc -l; fi) |

| fault | times | |
|---|---|---|
MD
  for kind in kill stop mpirun cut blip resize flip disk; do
    case $kind in
      kill) what="kill -9 of a rank" ;;
      stop) what="SIGSTOP of a rank" ;;
      mpirun) what="kill -9 of mpirun" ;;
      cut) what="link between the hosts cut until the job ended" ;;
      blip) what="link cut for 1.5 s" ;;
      resize) what="SIGTERM to lockstep-run, then another number of ranks" ;;
      flip) what="one bit of the newest checkpoint, and a kill" ;;
      disk) what="disk full for 4 s" ;;
    esac
    echo "| $kind | ${struck[$kind]:-$(case " ${kinds[*]} " in *" $kind "*) echo 0 ;; *) echo "not possible here" ;; esac)} | $what |"
  done
  echo
  echo "| process | lived at least 8 s | longest, s | most memory, kB | growth of memory, kB | growth of open files |"
  echo "|---|---|---|---|---|---|"
  while read -r role count age peak rss fds; do
    echo "| $role | $count | $age | $peak | $rss | $fds |"
    # Flat: no more than a tenth, or 4 MB.
    if [ "$rss" -gt $((peak / 10 > 4096 ? peak / 10 : 4096)) ] || [ "$fds" -gt 4 ]; then flat=no; fi
  done < <(growth)
  echo
  echo "Growth is the largest of all processes, from the third second after the ranks have met; memory and open files flat: $flat."
  [ -z "$left" ] || printf '\nLeft:\n\n```\n%s\n```\n' "$left"
}
