# What slurm.sbatch and slurm_srun.sbatch have in common. Sourced by them, with `launcher` set.
# shellcheck shell=bash disable=SC2154

# shellcheck source=launch/program.sh
. "$launch/program.sh"

# run_job WORDS…: trains with `lockstep WORDS`, restarts within the allocation, and puts the job back into the queue when
# it was preempted or ran out of time. Ends the script.
run_job() {
  local child code=0 lockstep=${LOCKSTEP:-} asked=0 cancelled=0 interrupted=0
  if [ -z "$lockstep" ]; then lockstep=$(default_program "$launch"); fi
  if [ "${1:-}" != train ]; then
    echo "slurm: error: give the words after \`lockstep\`, as in: sbatch $0 train --config FILE" >&2
    exit 2
  fi
  # A request that comes twice is one request.
  trap 'asked=1; kill -USR1 "$child" 2>/dev/null' USR1
  # SIGTERM comes when somebody cancels the job, or when Slurm takes the nodes and requeues the job by itself.
  trap 'asked=1 cancelled=1; kill -USR1 "$child" 2>/dev/null' TERM
  # An interrupt may come to lockstep-run too: as a request it is the first one there in any case.
  trap 'asked=1 interrupted=1; kill -USR1 "$child" 2>/dev/null' INT
  "$launch/lockstep-run" --launcher "$launcher" --grace "${LOCKSTEP_GRACE:-120}" -- "$lockstep" "$@" &
  child=$!
  while :; do
    asked=0
    wait "$child"
    code=$?
    [ $asked -eq 1 ] || break
  done
  # Whoever interrupts a job does not want it back in the queue.
  if [ "$code" -eq 75 ] && [ $interrupted -eq 1 ]; then code=130; fi
  if [ "$code" -eq 130 ]; then
    echo "slurm: interrupted: not put back into the queue; submit it again to go on" >&2
    exit 130
  fi
  if [ "$code" -eq 75 ] && [ $cancelled -eq 1 ]; then
    echo "slurm: ended with 75 and cancelled: not put back into the queue; submit it again to go on" >&2
    exit 75
  fi
  # 75: there is more to do. 4 with a node down: another allocation may do what this one cannot.
  case $code in
    4) node_is_down || exit 4 ;;
  esac
  case $code in
    75|4)
      if [ "${SLURM_RESTART_COUNT:-0}" -ge "${LOCKSTEP_MAX_REQUEUES:-100}" ]; then
        echo "slurm: ended with $code after ${SLURM_RESTART_COUNT} requeues: not put back into the queue" >&2
      elif scontrol requeue "$SLURM_JOB_ID"; then
        echo "slurm: ended with $code: job $SLURM_JOB_ID is back in the queue" >&2
        # Slurm ends the script.
        sleep 60
      else
        echo "slurm: ended with $code, and the job could not be put back into the queue: submit it again to go on" >&2
      fi ;;
  esac
  exit "$code"
}

node_is_down() {
  sinfo -h -N -n "$SLURM_JOB_NODELIST" -o '%T' 2>/dev/null | grep -q -E 'down|fail|unknown|\*'
}
