# Which program the scripts start, and in which folder it will run. Sourced by lockstep-run, workstation.sh and
# slurm_job.sh.
# shellcheck shell=bash disable=SC2034

# default_program LAUNCH: `lockstep` beside the folder LAUNCH: in the tree of the sources, or where it was installed.
default_program() {
  if [ -e "$1/installed" ]; then echo "$1/$(cat "$1/installed")/lockstep"; else echo "$1/../build/lockstep"; fi
}

# job_folder WORDS…: sets folder to the one in which mpirun or srun starts the program, as its options WORDS say. The
# program reads all relative paths there.
job_folder() {
  folder=$PWD
  while [ $# -gt 0 ]; do
    case $1 in
      --wdir=*|-wdir=*|--wd=*|-wd=*|--chdir=*) folder=${1#*=} ;;
      --wdir|-wdir|--wd|-wd|--chdir|-D) folder=${2:-} ;;
    esac
    shift
  done
  case $folder in /*) ;; *) folder=$PWD/$folder ;; esac
}

# A path that only a shell would have expanded, and did not: one that begins with '~', names a variable, or has quotes
# around it. What exists under that name is meant.
unexpanded() {
  case $1 in
    \~*|*\$[A-Za-z_{\(]*|[\'\"]*|*[\'\"]) [ ! -e "$1" ] ;;
    *) return 1 ;;
  esac
}
