#!/usr/bin/env bash
# Checks the form of the sources: clang-format on all of them, clang-tidy on src/ as the release build compiles it.
#   ./tests/lint.sh [format|tidy] [files]        default: both, all files
# BUILD names the build folder whose compile_commands.json is read (default: build). One process, about 10 minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
what=both
case ${1:-} in format|tidy) what=$1; shift ;; esac
build=${BUILD:-build}
# Another version of clang-format sets some lines otherwise.
version=14
pick() { command -v "$1-$version" || command -v "$1" || { echo "$1 $version is missing; on Debian: apt-get install $1-$version" >&2; exit 2; }; }

failed=0
if [ "$what" != tidy ]; then
  format=$(pick clang-format)
  "$format" --version | grep -q "version $version\." || echo "note: this is not clang-format $version; it may ask for other forms" >&2
  if [ $# -gt 0 ]; then files=("$@"); else
    mapfile -t files < <(find src tests benchmarks examples \( -name '*.cpp' -o -name '*.h' \) | sort)
  fi
  "$format" --dry-run --Werror "${files[@]}" || failed=1
fi
if [ "$what" != format ]; then
  tidy=$(pick clang-tidy)
  [ -e "$build/compile_commands.json" ] || { echo "$build/compile_commands.json is missing: cmake --preset release first, or name another folder with BUILD=" >&2; exit 2; }
  # clang reads no headers that GCC has parsed.
  commands=$(mktemp -d)
  trap 'rm -rf "$commands"' EXIT
  sed -E 's/ -(Winvalid-pch|fpch-preprocess)//g; s/ -include [^ ]*cmake_pch\.hxx//g' "$build/compile_commands.json" >"$commands/compile_commands.json"
  if [ $# -gt 0 ]; then files=("$@"); else mapfile -t files < <(find src -name '*.cpp' | sort); fi
  for file in "${files[@]}"; do
    case $file in *.cpp) ;; *) continue ;; esac
    # GCC's flags that clang does not know are no findings.
    "$tidy" -p "$commands" --quiet --extra-arg=-Wno-unknown-warning-option "$file" 2>/dev/null || { echo "clang-tidy: $file" >&2; failed=1; }
  done
fi
exit $failed
