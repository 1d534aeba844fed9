# Makes the tools and libraries of a bundle found; bundle.sh puts it into the bundle, tests/gpu/run.sh sources it. The
# folder is where this file lies. No LD_LIBRARY_PATH: gcc, Python and CMake keep the libraries that they were made with.
# Open MPI's tools set it for themselves and their ranks (wrapper.sh), and what is built here has the folders written
# into it, also for the libraries of its libraries.
# shellcheck shell=bash
lockstep_bundle=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ -e "$lockstep_bundle/packed.tar.gz" ]; then
  tar xzf "$lockstep_bundle/packed.tar.gz" -C "$lockstep_bundle" && rm "$lockstep_bundle/packed.tar.gz"
fi
lockstep_usr=$lockstep_bundle/root/usr
lockstep_found=("$lockstep_usr"/lib/*/libmpi.so)
lockstep_triplet=$(basename "$(dirname "${lockstep_found[0]}")")
export OPAL_PREFIX=$lockstep_usr PMIX_INSTALL_PREFIX=$lockstep_usr/lib/$lockstep_triplet/pmix2
# bin holds Open MPI's tools alone: what else Debian has in usr/bin is the machine's own.
export PATH=$lockstep_bundle/bin:$PATH
export LDFLAGS="-Wl,--disable-new-dtags -Wl,-rpath,$lockstep_usr/lib/$lockstep_triplet:$lockstep_usr/lib/$lockstep_triplet/openmpi/lib:$lockstep_usr/lib:$lockstep_bundle/root/lib/$lockstep_triplet${LDFLAGS:+ $LDFLAGS}"
export CMAKE_PREFIX_PATH=$lockstep_usr:$lockstep_bundle/cudnn-frontend${CMAKE_PREFIX_PATH:+:$CMAKE_PREFIX_PATH}
