#!/usr/bin/env bash
# Makes one folder that holds what Lockstep needs to be built and run besides compilers, CMake and what comes from
# NVIDIA: Debian's packages, unpacked and pruned, and the headers of cudnn-frontend. For hosts with a GPU that reach no
# package archive: copy the folder there, beside the sources, and run tests/gpu/run.sh.
#   ./tests/gpu/bundle.sh [FOLDER]      default: .gpu-bundle, which git ignores
# It holds what is installed on this Debian or Ubuntu (what is missing is installed first); the host needs the same or a
# newer glibc. The folder may be moved. Together with the working tree at most 60 MiB (travel_size.sh), which is what a
# machine may be sent.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. launch/packages.sh
folder=$(realpath -m "${1:-.gpu-bundle}")

temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

# What is installed here is what is bundled, so that a library is found for everything that needs one.
wanted=()
for package in "${lockstep_build_packages[@]}" "${lockstep_test_packages[@]}"; do
  case $package in g++|cmake|ninja-build) ;; *) wanted+=("$package") ;; esac
done
install_missing "${wanted[@]}"

# The packages that these stand for: a -dev package without a version needs the one with it, and that the library.
declare -A chosen=()
add_package() {
  local package=$1 dependency
  [ -z "${chosen[$package]:-}" ] || return 0
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || return 0
  chosen[$package]=1
  for dependency in $(dpkg-query -W -f='${Depends}' "$package" | tr ',|' '\n\n' | sed 's/([^)]*)//; s/:any//; s/ //g'); do
    case $dependency in
      libopenmpi*|openmpi-*|libdnnl*|libboost*|libssl*|libfmt*|libutf8proc*|libhwloc*|zlib1g*|libgtest*|libgmock*|googletest|ocl-icd*|opencl-*) add_package "$dependency" ;;
    esac
  done
}
for package in "${wanted[@]}"; do add_package "$package"; done

# Shared libraries that programs and plugins of those packages load, by whose package they are; not those of the C and
# C++ runtimes, which are the compiler's.
while read -r library; do
  # Where /lib is a link to /usr/lib, a package may have recorded either.
  file=$(realpath "$library")
  owner=$({ dpkg-query -S "$file" || dpkg-query -S "${file#/usr}"; } 2>/dev/null | head -1 | cut -d: -f1 || true)
  case $owner in ''|libc6|libgcc*|libstdc++*|libgomp*|libgfortran*|libquadmath*) ;; *) chosen[$owner]=1 ;; esac
done < <(dpkg-query -L "${!chosen[@]}" | grep -E '/bin/|\.so' | xargs -r ldd 2>/dev/null |
  sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p' | sort -u)
rm -rf "$folder"
mkdir -p "$folder/root"
echo "Copying the files of ${#chosen[@]} packages"
dpkg-query -L "${!chosen[@]}" | sort -u | while read -r file; do
  # A file under /lib is taken to /usr/lib where one is a link to the other.
  if [ -f "$file" ] || [ -L "$file" ]; then case $file in /lib/*) [ ! -L /lib ] || file=/usr$file ;; esac; echo "$file"; fi
done | grep -v '/share/\(doc\|man\|lintian\|locale\|bug\|info\)/' | sort -u | tar cf - -T - 2>/dev/null | tar xf - -C "$folder/root"

# Prune: what is neither linked, nor included, nor run. Of Boost only what its option parser includes.
root=$folder/root
rm -rf "$root"/usr/share/{doc,man,lintian,bug,info,locale,perl5,doc-base,mysql*,gtk-doc} "$root"/{etc/init.d,var,lib/systemd} \
  "$root"/usr/lib/{python3,debug,valgrind} "$root"/usr/lib/*/{perl*,openmpi/lib/libmpi_java*,openmpi/lib/openmpi/mpi.jar,dri} \
  "$root"/usr/src "$root"/usr/lib/*/fortran
find "$root" \( -type f -o -type l \) \( -name 'libcrypto.a' -o -name 'libssl.a' -o -name 'libmpi*.a' -o -name 'libopen-*.a' -o -name 'libboost*.a' \
  -o -name 'libpmix*.a' -o -name 'libhwloc*.a' -o -name 'libevent*.a' -o -name 'libz.a' -o -name 'libibverbs*.a' -o -name 'librdma*.a' \
  -o -name 'libnl*.a' -o -name 'libnuma.a' -o -name 'libltdl.a' -o -name '*.la' -o -name '*.mod' -o -name '*fortran*' \
  -o -name '*_usempi*' -o -name '*mpifh*' -o -name 'libmlx*.a' -o -name 'libef*.a' -o -name 'libmana.a' -o -name 'libudev*.a' \) -delete
echo '#include <boost/program_options.hpp>' >"$temporary/boost.cpp"
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
find "$root" \( -type f -o -type l \) \( -name 'libboost_*' -a ! -name 'libboost_program_options*' -a ! -name 'libboost_headers*' \) -delete
for name in "$root"/usr/lib/*/cmake/boost_*; do
  case $(basename "$name") in boost_program_options*|boost_headers*) ;; *) rm -rf "$name" ;; esac
done
# Java's and OpenSHMEM's parts of Open MPI.
rm -rf "$root"/usr/lib/*/{,openmpi/lib/}lib{oshmem,mpi_java}* "$root"/usr/lib/*/rsocket
# Links that the alternatives system would make.
for tool in mpirun mpiexec; do ln -sf orterun "$root/usr/bin/$tool"; done
for tool in mpicc mpicxx mpic++; do [ -e "$root/usr/bin/$tool" ] || ln -sf opal_wrapper "$root/usr/bin/$tool"; done
for directory in "$root"/usr/lib/*/openmpi; do
  [ -e "$(dirname "$directory")/libmpi.so" ] || ln -sf "openmpi/lib/libmpi.so" "$(dirname "$directory")/libmpi.so"
done
# Each of Open MPI's tools behind a wrapper that finds its libraries, and a folder of links to them alone.
mkdir -p "$root/usr/bin/.real" "$folder/bin"
for tool in "$root"/usr/bin/{orte*,opal*,ompi*,mpi*}; do
  if [ ! -L "$tool" ]; then
    mv "$tool" "$root/usr/bin/.real/"
    cp tests/gpu/wrapper.sh "$tool"
    chmod +x "$tool"
  fi
  ln -s "../root/usr/bin/$(basename "$tool")" "$folder/bin/"
done
# What is built with the bundle says where its libraries are, and theirs.
find "$root" -type f -name '*.so*' -exec python3 tests/gpu/forget_runpath.py {} +
install_cudnn_frontend "$folder/cudnn-frontend"
# It travels packed; env.sh unpacks it where it lies.
tar czf "$folder/packed.tar.gz" -C "$folder" root bin cudnn-frontend
rm -rf "$folder/root" "$folder/bin" "$folder/cudnn-frontend"
cp tests/gpu/env.sh "$folder/env.sh"
tests/gpu/travel_size.sh . "$folder"
