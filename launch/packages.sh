# What Lockstep needs from the package manager, and how to get it. Sourced by quickstart.sh and tests/run.sh.
# shellcheck shell=bash disable=SC2034

# Debian's CMake package of oneDNN asks for OpenCL, which libdnnl-dev only recommends: hence ocl-icd-opencl-dev.
lockstep_build_packages=(g++ cmake ninja-build openmpi-bin libopenmpi-dev libdnnl-dev ocl-icd-opencl-dev
  libboost-program-options-dev zlib1g-dev libssl-dev libfmt-dev libutf8proc-dev libhwloc-dev nlohmann-json3-dev)
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

# ---- CUDA ----

# The compiler of the CUDA toolkit is here.
has_cuda_toolkit() {
  command -v nvcc >/dev/null || [ -x "${CUDAToolkit_ROOT:-/usr/local/cuda}/bin/nvcc" ] || [ -x /usr/local/cuda/bin/nvcc ]
}

# A GPU of NVIDIA is visible.
has_gpu() {
  if command -v nvidia-smi >/dev/null; then nvidia-smi -L 2>/dev/null | grep -q '^GPU'; else [ -e /dev/nvidia0 ]; fi
}

# Where cmake/FindCudnnFrontend.cmake looks besides the system.
cudnn_frontend_cache() { echo "${XDG_CACHE_HOME:-$HOME/.cache}/lockstep/cudnn-frontend"; }

# has_nvidia_header FILE: in the toolkit, the system, or a site-packages.
has_nvidia_header() {
  local place
  for place in "${CUDAToolkit_ROOT:-/usr/local/cuda}" /usr/local/cuda /usr /usr/local /usr/include/x86_64-linux-gnu \
    ${CMAKE_PREFIX_PATH:+${CMAKE_PREFIX_PATH//:/ }} ${LOCKSTEP_NVIDIA_ROOT:+${LOCKSTEP_NVIDIA_ROOT//[:;]/ }}; do
    if [ -e "$place/include/$1" ] || [ -e "$place/$1" ]; then return 0; fi
  done
  command -v python3 >/dev/null || return 1
  python3 - "$1" <<'PYTHON' 2>/dev/null
import glob, os, sys
found = any(glob.glob(os.path.join(p, pattern, sys.argv[1]))
            for p in sys.path if p.endswith("-packages") for pattern in ("include", "nvidia/*/include"))
sys.exit(0 if found else 1)
PYTHON
}

# install_cuda_libraries: what a package manager can bring of what the CUDA device needs, and in words what must come
# from NVIDIA. Returns 1 when something is missing after that.
install_cuda_libraries() {
  local missing=() major package
  if ! has_cuda_toolkit; then
    echo "CUDA: the toolkit (12 or later, tested with 13.0) must come from NVIDIA (its CUDA downloads)" >&2
    return 1
  fi
  major=$(PATH=$PATH:/usr/local/cuda/bin nvcc --version | sed -n 's/.*release \([0-9]*\)\..*/\1/p')
  # The names of these packages are those of NVIDIA's own repositories for apt, where one is set up.
  has_nvidia_header cudnn.h || missing+=("libcudnn9-dev-cuda-$major")
  has_nvidia_header nccl.h || missing+=(libnccl-dev libnccl2)
  for package in "${missing[@]}"; do
    if ! apt-cache show "$package" >/dev/null 2>&1; then
      echo "CUDA: cuDNN 9 and NCCL must come from NVIDIA: set up NVIDIA's repository for apt, or install the wheels nvidia-cudnn-cu$major and nvidia-nccl-cu$major" >&2
      return 1
    fi
  done
  [ ${#missing[@]} -eq 0 ] || install_missing "${missing[@]}" || return 1
  install_cudnn_frontend
}

# install_cudnn_frontend [FOLDER]: the headers of cudnn-frontend from its wheel, into a cache folder where CMake finds
# them. Python's pip only downloads the file; nothing that is built needs it.
install_cudnn_frontend() {
  local folder=${1:-$(cudnn_frontend_cache)} temporary
  if [ $# -eq 0 ] && { [ -e "$folder/include/cudnn_frontend.h" ] || has_nvidia_header cudnn_frontend.h; }; then return 0; fi
  python3 -m pip --version >/dev/null 2>&1 || install_missing python3-pip || return 1
  temporary=$(mktemp -d)
  echo "Fetching the headers of cudnn-frontend"
  if ! { python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: -d "$temporary" 'nvidia-cudnn-frontend>=1.8,<2' &&
         (cd "$temporary" && cmake -E tar xf ./*.whl) && [ -e "$temporary/include/cudnn_frontend.h" ]; }; then
    rm -rf "$temporary"
    echo "CUDA: the headers of cudnn-frontend could not be fetched; they are those of the wheel nvidia-cudnn-frontend, and LOCKSTEP_NVIDIA_ROOT may name a folder with its include/" >&2
    return 1
  fi
  mkdir -p "$folder"
  rm -rf "$folder/include"
  mv "$temporary/include" "$folder/include"
  rm -rf "$temporary"
}
