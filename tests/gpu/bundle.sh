#!/usr/bin/env bash
# Makes one folder that holds what Lockstep needs to be built and run besides compilers, CMake and what comes from
# NVIDIA: Debian's packages, unpacked and pruned, and the headers of cudnn-frontend. For hosts with a GPU that reach no
# package archive: copy the folder there, beside the sources, and run tests/gpu/run.sh.
#   ./tests/gpu/bundle.sh [FOLDER]      default: .gpu-bundle, which git ignores
# To be made on the Debian or Ubuntu whose packages it is to hold; the host needs the same or a newer glibc. The folder
# may be moved. At most 64 MiB.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. launch/packages.sh
folder=$(realpath -m "${1:-.gpu-bundle}")
limit_mib=64

temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

# The closure of what the build and test packages need at run time, less what every system has. Recommended packages
# and those of the compilers stay out.
wanted=()
for package in "${lockstep_build_packages[@]}" "${lockstep_test_packages[@]}"; do
  case $package in g++|cmake|ninja-build) ;; *) wanted+=("$package") ;; esac
done
wanted+=(ocl-icd-opencl-dev)  # Debian's oneDNN names it in its CMake package
echo "Reading what they depend on"
mapfile -t closure < <(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
  --no-enhances "${wanted[@]}" | grep -E '^[a-z0-9]' | grep -vE ':|^<' | sort -u |
  grep -vE '^(libc6|libc6-dev|libc-.*|libc-bin|libcrypt.*|libnsl.*|libtirpc.*|linux-libc-dev|rpcsvc-proto|gcc.*|g\+\+.*|cpp.*|libgcc.*|libstdc\+\+.*|libasan.*|libtsan.*|liblsan.*|libubsan.*|libitm.*|libatomic.*|libquadmath.*|libgfortran-.*|gfortran.*|libgomp.*|binutils.*|libbinutils|libctf.*|libgprofng.*|libisl.*|libmpc.*|libmpfr.*|libgmp.*|perl.*|libperl.*|python.*|libpython.*|debconf.*|cdebconf|dpkg.*|tar|adduser|passwd|media-types|mime-support|openssh-.*|login|libpam.*|libaudit.*|libselinux.*|libsemanage.*|libsepol.*|coreutils|debianutils|base-.*|sed|install-info|ucf|sensible-utils|readline-common|libreadline.*|libdb5.*|libgdbm.*|libsystemd.*|init-.*|lsb-.*|libbsd0|libmd0|libedit.*|libfido.*|libgssapi.*|libkrb.*|libk5.*|krb5.*|comerr-dev|libcom-err.*|libkeyutils.*|libcbor.*|libgssrpc.*|libkadm.*|libkdb.*|libcap.*|libpcre.*|libacl.*|libattr.*|libtinfo.*|libncurses.*|libssl-doc|icu-.*|libicu.*|libx.*|libX.*|x11.*|libwrap.*|libedit2|libbz2.*|liblzma.*|libzstd.*|libexpat.*|libffi.*|libsqlite.*|libuuid.*|zlib1g-dev:.*|autotools-dev|googletest|javascript-common)$')
mapfile -t archives < <(apt-cache policy "${closure[@]}" 2>/dev/null | awk '/^[^ ]/ {name = $1; sub(/:$/, "", name)} /Candidate:/ && $2 != "(none)" {print name}')
echo "Fetching ${#archives[@]} packages"
(cd "$temporary" && apt-get -qq download "${archives[@]}") || {
  echo "Some package could not be fetched; apt-get update may help." >&2
  exit 1
}
# Header-only or versioned packages behind the names above come with the closure.
rm -rf "$folder"
mkdir -p "$folder/root"
for archive in "$temporary"/*.deb; do dpkg -x "$archive" "$folder/root"; done

# Prune: what is neither linked, nor included, nor run. Of Boost only what its option parser includes.
root=$folder/root
rm -rf "$root"/usr/share/{doc,man,lintian,bug,info,locale,perl5,doc-base,mysql*,gtk-doc} "$root"/{etc/init.d,var,lib/systemd} \
  "$root"/usr/lib/{python3,debug,valgrind} "$root"/usr/lib/*/{perl*,openmpi/lib/libmpi_java*,openmpi/lib/openmpi/mpi.jar,dri} \
  "$root"/usr/src
find "$root" \( -name 'libcrypto.a' -o -name 'libssl.a' -o -name 'libmpi*.a' -o -name 'libopen-*.a' -o -name 'libboost*.a' \
  -o -name 'libpmix*.a' -o -name 'libhwloc*.a' -o -name 'libevent*.a' -o -name 'libz.a' -o -name 'libibverbs*.a' -o -name 'librdma*.a' \
  -o -name 'libnl*.a' -o -name 'libnuma.a' -o -name 'libltdl.a' -o -name '*.la' -o -name '*.mod' -o -name '*fortran*' \
  -o -name '*_usempi*' -o -name '*mpifh*' -o -name 'libmlx*.a' -o -name 'libef*.a' -o -name 'libmana.a' -o -name 'libudev*.a' \) -delete
echo '#include <boost/program_options.hpp>' >"$temporary/boost.cpp"
g++ -std=c++20 -M -nostdinc++ -isystem "$root/usr/include" "$temporary/boost.cpp" >/dev/null 2>&1 || true
g++ -std=c++20 -M -isystem "$root/usr/include" "$temporary/boost.cpp" | tr ' \\' '\n\n' |
  sed -n "s#^.*/usr/include/boost/#boost/#p" | sort -u >"$temporary/used"
if [ -s "$temporary/used" ]; then
  mkdir "$temporary/keep"
  # Macros name some headers in ways that only another compiler takes: their folders stay whole.
  for part in config preprocessor predef mpl type_traits detail core version.hpp; do
    [ -e "$root/usr/include/boost/$part" ] && echo "boost/$part" >>"$temporary/used"
  done
  (cd "$root/usr/include" && tar cf - -T "$temporary/used" 2>/dev/null) | tar xf - -C "$temporary/keep"
  rm -rf "$root/usr/include/boost"
  mv "$temporary/keep/boost" "$root/usr/include/boost"
fi
# Of Boost's libraries only what is linked.
find "$root" \( -name 'libboost_*' -a ! -name 'libboost_program_options*' -a ! -name 'libboost_headers*' \) -delete
for name in "$root"/usr/lib/*/cmake/boost_*; do
  case $(basename "$name") in boost_program_options*|boost_headers*) ;; *) rm -rf "$name" ;; esac
done
# Links that the alternatives system would make.
for tool in mpirun mpiexec; do ln -sf orterun "$root/usr/bin/$tool"; done
for tool in mpicc mpicxx mpic++; do [ -e "$root/usr/bin/$tool" ] || ln -sf opal_wrapper "$root/usr/bin/$tool"; done
for directory in "$root"/usr/lib/*/openmpi; do
  [ -e "$(dirname "$directory")/libmpi.so" ] || ln -sf "openmpi/lib/libmpi.so" "$(dirname "$directory")/libmpi.so"
done
install_cudnn_frontend "$folder/cudnn-frontend"

cat >"$folder/env.sh" <<'SCRIPT'
# Makes the bundle's tools and libraries found; sourced by tests/gpu/run.sh. The folder is where this file lies.
lockstep_bundle=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
lockstep_triplet=$(basename "$(dirname "$(echo "$lockstep_bundle"/root/usr/lib/*/libmpi.so | cut -d' ' -f1)")")
export OPAL_PREFIX=$lockstep_bundle/root/usr
export PATH=$lockstep_bundle/root/usr/bin:$PATH
export LD_LIBRARY_PATH=$lockstep_bundle/root/usr/lib/$lockstep_triplet:$lockstep_bundle/root/usr/lib/$lockstep_triplet/openmpi/lib:$lockstep_bundle/root/usr/lib:$lockstep_bundle/root/lib/$lockstep_triplet${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export CMAKE_PREFIX_PATH=$lockstep_bundle/root/usr:$lockstep_bundle/cudnn-frontend${CMAKE_PREFIX_PATH:+:$CMAKE_PREFIX_PATH}
SCRIPT
size=$(du -sm --apparent-size "$folder" | cut -f1)
echo "$folder: $size MiB"
if [ "$size" -gt "$limit_mib" ]; then
  echo "That is more than $limit_mib MiB; the largest parts:" >&2
  du -m "$folder" | sort -rn | head -15 >&2
  exit 1
fi
