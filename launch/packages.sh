# What Lockstep needs from the package manager, and how to get it. Sourced by quickstart.sh and tests/run.sh.
# shellcheck shell=bash disable=SC2034

lockstep_build_packages=(g++ cmake ninja-build openmpi-bin libopenmpi-dev libdnnl-dev libboost-program-options-dev
  zlib1g-dev libssl-dev libfmt-dev nlohmann-json3-dev)
lockstep_data_packages=(dataset-fashion-mnist)
lockstep_test_packages=(libgtest-dev libgmock-dev)
lockstep_testbed_packages=(iproute2 procps slurm-wlm munge)

# install_missing PACKAGE…: installs those that are not there, as root or with sudo. When it may not, it says what to
# install and returns 1.
install_missing() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  if ! command -v apt-get >/dev/null; then
    echo "This machine has no apt-get. Please install the equivalents of: ${missing[*]}" >&2
    return 1
  fi
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
      as_root=(sudo)
    else
      echo "These packages are missing and this user may not install them: ${missing[*]}" >&2
      echo "Ask an administrator to run: apt-get install ${missing[*]}" >&2
      return 1
    fi
  fi
  echo "Installing: ${missing[*]}"
  # A fresh machine may be updating itself: wait for its lock. Its package lists may be missing or old: the second try
  # renews them.
  local install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive
    apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}")
  if ! "${install[@]}" </dev/null >/dev/null 2>&1; then
    "${as_root[@]}" apt-get -o DPkg::Lock::Timeout=300 update -qq ||
      echo "apt-get update failed; going on with the lists that are there" >&2
    if ! "${install[@]}" </dev/null >/dev/null; then
      echo "Could not install: ${missing[*]}" >&2
      return 1
    fi
  fi
}

# Open MPI refuses to run as root unless told twice.
allow_mpi_as_root() {
  if [ "$(id -u)" -eq 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
}
