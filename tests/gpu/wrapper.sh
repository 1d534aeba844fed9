#!/usr/bin/env bash
# Starts the tool of this name in the folder .real beside it with the bundle's libraries; bundle.sh puts it in the place of
# each of Open MPI's tools. opal_wrapper knows by the name it is called which compiler it is.
self=$(readlink -f "${BASH_SOURCE[0]}")
lib=$(dirname "$(dirname "$self")")/lib
found=("$lib"/*/libmpi.so)
libraries=$(dirname "${found[0]}")
export LD_LIBRARY_PATH=$libraries:$libraries/openmpi/lib:$lib:${lib%/usr/lib}/lib/$(basename "$libraries")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
exec -a "$(basename "$0")" "$(dirname "$self")/.real/$(basename "$self")" "$@"
