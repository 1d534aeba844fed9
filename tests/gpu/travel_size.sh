#!/usr/bin/env bash
# Measures what is sent to a machine: the files of a working tree that git does not ignore, and a bundle.
#   tests/gpu/travel_size.sh TREE BUNDLE [MIB]      default: 60 MiB; exit code 1 where they are more
set -euo pipefail
tree=$1 bundle=$2 limit_mib=${3:-60}
# A file that was deleted and is still known to git travels no more, and du complains of it.
bytes_of() { { cat; printf '%s\0' /dev/null; } | { du --files0-from=- -cb 2>/dev/null || true; } | tail -1 | cut -f1; }
tree_bytes=$(git -C "$tree" ls-files -co --exclude-standard -z | (cd "$tree" && bytes_of))
bundle_bytes=$(find "$bundle" -type f -print0 | bytes_of)
mib() { awk -v b="$1" 'BEGIN { printf "%.1f", b / 1048576 }'; }
echo "the bundle $bundle: $(mib "$bundle_bytes") MiB; the working tree: $(mib "$tree_bytes") MiB; at most $limit_mib MiB together"
if [ $((tree_bytes + bundle_bytes)) -gt $((limit_mib * 1048576)) ]; then
  echo "That is too much to be sent. The largest files:" >&2
  { git -C "$tree" ls-files -co --exclude-standard -z | (cd "$tree" && xargs -0 -r du -b 2>/dev/null); find "$bundle" -type f -exec du -b {} +; } |
    sort -rn | head -15 >&2 || true
  exit 1
fi
