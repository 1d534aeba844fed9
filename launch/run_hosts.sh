# The hosts of a job: which there are, which answer, how many ranks they take. Sourced by lockstep-run.
# shellcheck shell=bash disable=SC2154,SC2034

all_names=() all_slots=()      # as the user or Slurm says; slots 0: as many as the host has cores
all_users=() all_words=()      # of a hostfile: who logs in there, other words of its line
use_names=() use_slots=()      # those of the next start; none: this host alone, without a list
use_lines=()                   # and their lines for mpirun
host_source=                   # hostfile, list, slurm or nothing

# add_host NAME SLOTS [USER [WORDS]]. To mpirun a host that is named again has a slot more each time.
add_host() {
  local i
  for i in "${!all_names[@]}"; do
    [ "${all_names[i]}" = "$1" ] || continue
    all_slots[i]=$(((all_slots[i] > 0 ? all_slots[i] : 1) + ($2 > 0 ? $2 : 1)))
    return
  done
  all_names+=("$1") all_slots+=("$2") all_users+=("${3:-}") all_words+=("${4:-}")
}

read_hosts() {
  local name user words word slots more
  if [ -n "$hostfile" ] && [ -n "$host_list" ]; then refuse "--hostfile and --host are both given; keep one"; fi
  if [ -n "$hostfile" ]; then
    host_source=hostfile
    [ -r "$hostfile" ] && [ ! -d "$hostfile" ] || refuse "--hostfile $hostfile: it cannot be read; check the path"
    # Comments and blanks as mpirun takes them.
    while read -r -a words || [ ${#words[@]} -gt 0 ]; do
      [ ${#words[@]} -gt 0 ] || continue
      name=${words[0]} user='' slots=0 more=
      case $name in *@*) user=${name%%@*} name=${name#*@} ;; esac
      for word in "${words[@]:1}"; do
        case $word in
          slots=*|cpu=*|count=*) slots=$(whole "$hostfile: $name: slots" "${word#*=}" 1) || exit 2 ;;
          username=*|user-name=*|user_name=*) user=${word#*=} ;;
          *) more+=" $word" ;;
        esac
      done
      add_host "$name" "$slots" "$user" "$more"
    done < <(sed 's/\r$//; s/#.*//; s/\/\/.*//; s/[[:blank:]]*=[[:blank:]]*/=/g' "$hostfile")
  elif [ -n "$host_list" ]; then
    host_source=list
    IFS=, read -r -a words <<<"$host_list"
    for word in "${words[@]}"; do
      case $word in
        *:\*) slots=0 ;;
        *:*) slots=$(whole "--host ${word%:*}: slots" "${word##*:}" 1) || exit 2 ;;
        *) slots=1 ;;
      esac
      [ -z "${word%:*}" ] || add_host "${word%:*}" "$slots"
    done
  elif [ -n "${SLURM_JOB_ID:-}" ] && [ -n "${SLURM_JOB_NODELIST:-${SLURM_NODELIST:-}}" ]; then
    host_source=slurm
    read_allocation
  fi
  [ -z "$host_source" ] || [ ${#all_names[@]} -gt 0 ] || refuse "${hostfile:-$host_list}: it names no host; write a line \"name slots=N\" for each"
}

# The nodes of the allocation with their tasks, "2(x3),1" in Slurm's own form, or its cpus where no tasks were asked for.
read_allocation() {
  local names counts=() part i
  mapfile -t names < <(scontrol show hostnames "${SLURM_JOB_NODELIST:-$SLURM_NODELIST}")
  IFS=, read -r -a words <<<"${SLURM_TASKS_PER_NODE:-${SLURM_JOB_CPUS_PER_NODE:-1}}"
  for part in "${words[@]}"; do
    case $part in
      *"(x"*) for ((i = $(digits_of "${part#*x}"); i > 0; --i)); do counts+=("${part%%(*}"); done ;;
      *) counts+=("$part") ;;
    esac
  done
  for i in "${!names[@]}"; do add_host "${names[i]}" "$(digits_of "${counts[i]:-1}")"; done
}
digits_of() { local digits=${1//[!0-9]/}; echo "$((10#${digits:-1}))"; }

joined() { local IFS=,; echo "$*"; }
quoted() { printf "'%s'" "${1//\'/\'\\\'\'}"; }

# The agent by which mpirun starts something on another host: as its own options, its environment or its default say.
rsh_agent() {
  local i
  for i in "${!launcher_options[@]}"; do
    case ${launcher_options[i]} in plm_rsh_agent|orte_rsh_agent) echo "${launcher_options[i + 1]:-ssh}"; return ;; esac
  done
  echo "${OMPI_MCA_plm_rsh_agent:-${OMPI_MCA_orte_rsh_agent:-ssh}}"
}

# on_host I: feeds standard input to a shell on host I. In an allocation that is srun, as mpirun does it.
on_host() {
  local name=${all_names[$1]} user=${all_users[$1]} agent
  if is_here "$name"; then
    timeout -k 2 "$check_timeout" sh -s
  elif [ "$host_source" = slurm ]; then
    timeout -k 2 "$check_timeout" srun --overlap --mpi=none --quiet --nodes=1 --ntasks=1 --nodelist="$name" sh -s
  else
    # "first : second" are alternatives, and an agent may have options of its own.
    agent=$(rsh_agent)
    read -r -a agent <<<"${agent%%:*}"
    case ${agent[0]##*/} in ssh) agent+=(-oBatchMode=yes -oConnectTimeout="$check_timeout") ;; esac
    timeout -k 2 "$check_timeout" "${agent[@]}" "${user:+$user@}$name" sh -s
  fi
}

# Whether NAME is this machine: by its name, or by an address of it.
is_here() {
  local address mine
  case $1 in localhost|127.0.0.1|::1|"$(uname -n)") return 0 ;; esac
  if [ "$host_source" = slurm ]; then [ "$1" = "${SLURMD_NODENAME:-}" ]; return; fi
  case $(uname -n) in "$1".*) return 0 ;; esac
  address=$(getent hosts "$1" 2>/dev/null | { read -r first _; echo "${first:-}"; })
  for mine in $(hostname -I 2>/dev/null); do
    if [ "$mine" = "$1" ] || [ "$mine" = "$address" ]; then return 0; fi
  done
  return 1
}

# The script of on_host.sh below its settings.
host_script() {
  printf 'dead_runs=%s\ndead_jobs=%s\nbinary=%s\n' "$(quoted "$dead_runs")" "$(quoted "$dead_jobs")" "$(quoted "$1")"
  cat "$home/on_host.sh"
}

clean_here() {
  (helper_signals; host_script '' | sh -s >"$record/cleaned" 2>/dev/null)
  say_cleaned "$(uname -n)" "$record/cleaned"
}
say_cleaned() {
  local word rest
  while read -r word rest; do
    case $word in
      ended) log "$1: killed $rest process(es) that the job had left" ;;
      removed) log "$1: removed $rest file(s) or folder(s) that the job had left" ;;
      alive) log "$1: these processes of the job do not die: $rest; what they write is fenced off by its generation" ;;
    esac
  done <"$2"
}

# visit BINARY: the script on all hosts side by side; answers lie in $record/host.I.
visit() {
  local i jobs=()
  host_script "$1" >"$record/script"
  for i in "${!all_names[@]}"; do
    (helper_signals; on_host "$i" <"$record/script" >"$record/host.$i" 2>"$record/host.$i.error"; echo "code $?" >>"$record/host.$i") &
    jobs+=($!)
  done
  for i in ${jobs[@]+"${jobs[@]}"}; do wait_for "$i"; done
  for i in "${!all_names[@]}"; do say_cleaned "${all_names[i]}" "$record/host.$i"; done
}

# After a job's end, where it ran.
clean_everywhere() {
  clean_here
  if [ ${#all_names[@]} -gt 0 ]; then visit ''; fi
  dead_jobs=
}

# choose_hosts: those that answer and have the same program; sets use_names, use_slots and ranks. Returns 1 with
# choose_reason when they are too few.
choose_hosts() {
  local i want total=0 there=0 sum own answer down=
  use_names=() use_slots=() use_lines=() choose_reason=
  if [ ${#all_names[@]} -eq 0 ]; then ranks=${ranks_wanted:-1}; return 0; fi
  own=$(cksum <"$binary") || { choose_reason="$binary cannot be read"; return 1; }
  [ "$host_source" != slurm ] || down=$(nodes_down)
  visit "$binary"
  for i in "${!all_names[@]}"; do
    answer=$record/host.$i
    # Without a number of slots a host takes as many ranks as it has cores, as mpirun does it.
    want=${all_slots[i]}
    if [ "$want" -eq 0 ]; then want=$(sed -n 's/^cores //p' "$answer"); fi
    total=$((total + ${want:-1}))
    case " $down " in
      *" ${all_names[i]} "*) log "host ${all_names[i]} is left out: Slurm says that it is down"; continue ;;
    esac
    sum=$(sed -n 's/^binary //p' "$answer")
    if ! grep -q '^code 0$' "$answer" || [ -z "$sum" ]; then
      log "host ${all_names[i]} is left out: it does not answer ($(why_no_answer "$answer"))"
    elif [ "$sum" != "$own" ]; then
      log "host ${all_names[i]} is left out: $binary is $([ "$sum" = missing ] && echo missing || echo "another program") there"
    else
      use_names+=("${all_names[i]}") use_slots+=("$want")
      use_lines+=("${all_users[i]:+${all_users[i]}@}${all_names[i]} slots=$want${all_words[i]}")
      there=$((there + want))
    fi
  done
  ranks=${ranks_wanted:-$there}
  # More ranks than slots was the user's wish: then in the same proportion.
  if [ "$ranks" -gt "$total" ] && [ "$there" -lt "$total" ]; then
    ranks=$(((ranks * there + total - 1) / total))
  elif [ "$ranks" -gt "$there" ] && [ "$ranks" -le "$total" ]; then
    ranks=$there
  fi
  if [ "$there" -eq 0 ] || [ "$ranks" -lt "$min_ranks" ]; then
    choose_reason="the hosts that are left take $there ranks, and $min_ranks are needed"
    return 1
  fi
  # srun wants a task for every node.
  while [ ${#use_names[@]} -gt "$ranks" ]; do
    unset "use_names[-1]" "use_slots[-1]" "use_lines[-1]"
  done
}

# Why a host did not answer, in a few words.
why_no_answer() {
  local code text
  code=$(sed -n 's/^code //p' "$1")
  text=$(tail -n 1 "$1.error" 2>/dev/null | tr -d '\000-\037' | cut -c 1-120)
  if [ "$code" = 124 ] || [ "$code" = 137 ]; then echo "nothing within $check_timeout s"; else echo "${text:-exit ${code:-?}}"; fi
}

# Nodes that Slurm has given up, or no longer hears ('*').
nodes_down() {
  sinfo -h -N -n "$(joined "${all_names[@]}")" -o '%N %T' 2>/dev/null |
    awk '$2 ~ /down|fail|unknown|power|reboot|\*/ { printf "%s ", $1 }'
}

write_hostfile() { printf '%s\n' "${use_lines[@]}" >"$1"; }

hosts_text() {
  local i text=
  if [ ${#use_names[@]} -eq 0 ]; then echo "this host"; return; fi
  for i in "${!use_names[@]}"; do text+=${text:+, }"${use_names[i]} (${use_slots[i]})"; done
  echo "$text"
}
