# What lockstep-run knows of the run directory, and what it writes down of the jobs that it starts, so that their
# leftovers can be told from those of living jobs. Sourced by lockstep-run.
# shellcheck shell=bash disable=SC2154,SC2034

# find_run_directory: where the program will put its run, as it says itself, in the folder where it will be started and
# by the same words. Sets train_at (the index of the word `train`), binary, run_dir, and takes --resume and --overwrite
# out of the words: each start chooses anew.
find_run_directory() {
  local i word folder code last= kept=()
  train_at=-1 user_resume=0 user_overwrite=0
  for ((i = 1; i < ${#program[@]}; ++i)); do
    [ "${program[i]}" != train ] || { train_at=$i; break; }
  done
  [ $train_at -gt 0 ] ||
    refuse "\`${program[*]}\` is not \`lockstep train …\`: only training is started again; run other commands under $launcher"
  binary=$(command -v -- "${program[train_at - 1]}") ||
    refuse "the program ${program[train_at - 1]} is not there or not executable; build it, or name it with its path"
  case $binary in /*) ;; */*) binary=$PWD/$binary ;; *) refuse "${program[train_at - 1]} is not a program" ;; esac
  program[train_at - 1]=$binary
  for ((i = train_at + 1; i < ${#program[@]}; ++i)); do
    word=${program[i]}
    case $word in
      --resume) user_resume=1; continue ;;
      --overwrite) user_overwrite=1; continue ;;
      --help|--dry-run) refuse "$word: run that without lockstep-run" ;;
    esac
    kept+=("$word")
  done
  program=("${program[@]:0:train_at+1}" ${kept[@]+"${kept[@]}"})
  job_folder ${launcher_options[@]+"${launcher_options[@]}"}
  # Of an option whose value was forgotten, `--` would be the value.
  [ ${#launcher_options[@]} -eq 0 ] || last=${launcher_options[${#launcher_options[@]} - 1]}
  case $last in
    --wdir|-wdir|--wd|-wd|--chdir|-D) refuse "$last needs a value: the folder in which $launcher is to start the program" ;;
  esac
  ! unexpanded "${folder#"$PWD/"}" || refuse "${folder#"$PWD/"}: no shell has expanded this path; write what is meant"
  [ -d "$folder" ] || [ ! -e "$folder" ] || refuse "$folder: this is no folder, and $launcher is to start the program in one"
  [ -d "$folder" ] || refuse "$folder: the folder in which $launcher is to start the program is not there; make it"
  run_dir=$(cd "$folder" && "$binary" train "${program[@]:train_at+1}" --print-run-dir </dev/null)
  code=$?
  case $stop in interrupt) exit 130 ;; ?*) exit 75 ;; esac
  # What is wrong it has said itself.
  [ $code -ne 2 ] || exit 2
  case $code:$run_dir in
    0:/*) ;;
    *) refuse "$binary does not say where its run will be (exit code $code); is it a program of this version of Lockstep?" ;;
  esac
}

# Hundredths of a second since the machine started.
hundredths() { trap '' INT; local now; read -r now _ </proc/uptime; echo "${now/./}"; }

# The highest generation of the run directory; 0: none.
highest_generation() {
  # Called in $( ), where Ctrl-C would end it.
  trap '' INT
  local dir highest=0 number
  for dir in "$run_dir"/checkpoints/gen-[0-9]*; do
    [ -d "$dir" ] || continue
    number=${dir##*/gen-}
    case $number in *[!0-9]*) continue ;; esac
    [ $((10#$number)) -le "$highest" ] || highest=$((10#$number))
  done
  echo "$highest"
}

# The latest step that a checkpoint of this run was saved for; -1: none. A folder gets its name when it is whole.
newest_step() {
  trap '' INT
  local manifest highest=-1 step
  for manifest in "$run_dir"/checkpoints/gen-[0-9]*/step-[0-9]*/manifest.json; do
    [ -e "$manifest" ] || continue
    step=${manifest%/manifest.json}
    # With --overwrite, what was there before does not count.
    local generation=${step%/*}
    generation=${generation##*/gen-} step=${step##*/step-}
    case $step$generation in *[!0-9]*) continue ;; esac
    [ $((10#$generation)) -gt "$old_generation" ] || continue
    [ $((10#$step)) -le "$highest" ] || highest=$((10#$step))
  done
  echo "$highest"
}

# The step that the run had reached by its metrics, which lag behind by up to log.every_steps; -1: none.
reached_step() {
  trap '' INT
  local step
  step=$(tail -n 3 "$run_dir/metrics.jsonl" 2>/dev/null | sed -n 's/.*"step": *\([0-9]\{1,\}\).*/\1/p' | tail -n 1)
  echo "${step:--1}"
}

holds_run() {
  local file
  for file in config.resolved.ini metrics.jsonl model.safetensors best.safetensors test.json; do
    [ ! -e "$run_dir/$file" ] || return 0
  done
  for file in "$run_dir"/checkpoints/gen-*/*step-* "$run_dir"/checkpoints/gen-*/*best-*; do
    [ ! -e "$file" ] || return 0
  done
  return 1
}

# mode_of_start STARTS: the flag for the next start, after STARTS of them.
mode_of_start() {
  if [ "$user_overwrite" -eq 1 ] && [ "$(highest_generation)" -le "$old_generation" ]; then
    # The old run is replaced by the first start that gets so far.
    echo --overwrite
  elif [ "$(newest_step)" -ge 0 ]; then
    echo --resume
  elif ! holds_run; then
    # Nothing to go on with: --resume is passed on only where the program is to refuse it.
    [ "$1" -gt 0 ] || [ "$user_resume" -eq 0 ] || [ -n "$taken_over" ] || echo --resume
  elif { [ "$1" -gt 0 ] || [ -n "$taken_over" ]; } && [ ! -e "$run_dir/model.safetensors" ]; then
    # It was lost before its first checkpoint, and it was ours: from the beginning.
    echo --overwrite
  elif [ "$user_resume" -eq 1 ]; then
    echo --resume
  fi
}

# When a process started, in ticks since the machine did: with its number, who it is. A process that has ended and that
# its parent has not asked for yet is none.
start_time() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  # shellcheck disable=SC2086
  set -- ${stat##*) }
  case $1 in Z|X) return 1 ;; esac
  echo "${20}"
}

# is_alive HOST PID BORN: whether that process of a note is one of this host and still runs.
is_alive() { [ "$1" = "$(uname -n)" ] && [ -n "$2" ] && [ "$(start_time "$2")" = "$3" ]; }

# Whether a process of this host is of an earlier start of the Slurm job that this one belongs to.
is_earlier_start_of_our_job() {
  local theirs
  [ -n "${SLURM_JOB_ID:-}" ] || return 1
  theirs=$(tr '\0' '\n' 2>/dev/null <"/proc/$1/environ") || return 1
  grep -q -x -F "SLURM_JOB_ID=$SLURM_JOB_ID" <<<"$theirs" || return 1
  theirs=$(sed -n 's/^SLURM_RESTART_COUNT=\([0-9]\{1,\}\)$/\1/p' <<<"$theirs")
  [ "${theirs:-0}" -lt "${SLURM_RESTART_COUNT:-0}" ]
}

# open_record: a folder that says which jobs this process starts, and a note in the run directory that it does.
# Whatever a dead lockstep-run left of the same run is ended and removed.
open_record() {
  local uid base other old note host pid born id gen='' gate='' second
  uid=$(id -u) old_generation=0 taken_over='' dead_runs='' dead_jobs=''
  run_id=$(uname -n).$$.$(date +%s)
  base=${TMPDIR:-/tmp}/lockstep-run.$uid
  mkdir -m 700 "$base" 2>/dev/null
  [ -d "$base" ] && [ ! -L "$base" ] && [ -O "$base" ] ||
    refuse "$base cannot be made or is not this user's folder; remove it, or set TMPDIR to another folder"
  created_run_dir=0
  [ -d "$run_dir" ] || created_run_dir=1
  mkdir -p "$run_dir" 2>/dev/null || refuse "the run directory $run_dir cannot be made; name another run.dir"
  run_dir_path=$(cd "$run_dir" && pwd -P) || refuse "the run directory $run_dir cannot be entered; check its permissions"
  for other in "$base"/*/; do
    [ -e "$other/owner" ] || continue
    read -r pid born id <"$other/owner"
    [ "$(start_time "$pid")" != "$born" ] || continue
    # Jobs of a dead lockstep-run go on; only those of this run are in the way. The others' records stay while they live.
    if [ "$(cat "$other/run")" = "$run_dir_path" ] ||
       ! grep -l -s -F "LOCKSTEP_RUN_ID=$id" /proc/[0-9]*/environ >/dev/null; then
      remember_jobs_of "$other" "$id"
      old+=("$other")
    fi
  done
  note=$run_dir/.lockstep-run
  # Of two that start at once, the second is to see the note of the first. Where the file system has no locks, it may not.
  [ ! -r "$run_dir" ] || { exec {gate}<"$run_dir"; flock -w 10 "$gate"; } 2>/dev/null
  if [ -s "$note" ]; then
    read -r host pid born id gen <"$note"
    if is_alive "$host" "$pid" "$born" && is_earlier_start_of_our_job "$pid"; then
      # Slurm put the job back into the queue and started it before the processes of its first life had ended.
      log "waiting for the end of the lockstep-run of this job's earlier start (process $pid, at most $((grace + 60)) s)"
      for ((second = 0; second < grace + 60; ++second)); do
        [ -z "$stop" ] && is_alive "$host" "$pid" "$born" || break
        pause 1
      done
      case $stop in interrupt) exit 130 ;; ?*) log "ended on request before the first start; run again to go on"; exit 75 ;; esac
      # What it wrote last: it takes its note away when there is nothing to go on with.
      host='' pid='' born='' id='' gen=''
      [ ! -s "$note" ] || read -r host pid born id gen <"$note"
    fi
    if is_alive "$host" "$pid" "$born"; then
      refuse "another lockstep-run (process $pid) works on $run_dir; wait for it, end it, or name another run.dir"
    fi
    # Its record may be gone, or lie in another TMPDIR.
    [ "$host" != "$(uname -n)" ] || dead_runs+=" $id"
    # Only a run that it began itself is one to go on with: there is a generation above those that it found.
    if [ "$(highest_generation)" -gt "${gen:-0}" ]; then taken_over=$id; else gen=''; fi
    # What Slurm requeued goes on; --overwrite was for its first start.
    if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then user_overwrite=0; fi
  fi
  record=$base/$$.$(date +%s)
  mkdir -m 700 "$record" || refuse "$record cannot be made; free some space there, or set TMPDIR to another folder"
  echo "$run_dir_path" >"$record/run"
  born=$(start_time $$)
  echo "$$ $born $run_id" >"$record/owner"
  [ -n "$gen" ] || gen=$(highest_generation)
  noted_generation=$gen
  echo "$(uname -n) $$ $born $run_id $gen" >"$note" || { rm -rf "$record"; refuse "cannot write to the run directory $run_dir; name another run.dir"; }
  [ -z "$gate" ] || exec {gate}<&-
  [ "$user_overwrite" -eq 0 ] || old_generation=$(highest_generation)
  dead_runs+=" $run_id"
  [ -z "$taken_over" ] || log "going on with $run_dir, which an earlier lockstep-run left unfinished"
  clean_here
  for other in ${old[@]+"${old[@]}"}; do rm -rf "$other"; done
}

# A job that is gone: its launcher's number, and the job's own, which stands in the names of its files.
remember_jobs_of() {
  local pid uri=
  dead_runs+=" $2"
  [ -s "$1/launched" ] || return
  pid=$(cat "$1/launched")
  [ ! -s "$1/uri" ] || read -r uri <"$1/uri"
  uri=${uri%%.*}
  # Open MPI numbers the ranks' job one above that of mpirun itself.
  case $uri in ''|*[!0-9]*) dead_jobs+=" $pid:" ;; *) dead_jobs+=" $pid:$(printf %x $((uri | 1)))" ;; esac
}
remember_job() { remember_jobs_of "$record" "$run_id"; }

# The note stays while there is a run to go on with that lockstep-run has begun: one that refused all starts, since
# another job is at it say, is not.
release_record() {
  if [ -e "$run_dir/model.safetensors" ] || ! holds_run || [ "$(highest_generation)" -le "$noted_generation" ]; then rm -f "$run_dir/.lockstep-run"; fi
  if [ $created_run_dir -eq 1 ]; then rmdir "$run_dir" 2>/dev/null; fi
  rm -rf "$record"
}

# exit_text CODE: what an exit code means, behind it in a line of the log.
exit_text() {
  case $1 in
    0) echo " (without a finished run)" ;;
    4) echo " (a peer failed, hung or deviated)" ;;
    205) echo " (a host no longer answers)" ;;
    *) if [ "$1" -gt 128 ] && [ "$1" -le 192 ]; then echo " (signal $(($1 - 128)))"; fi ;;
  esac
}
