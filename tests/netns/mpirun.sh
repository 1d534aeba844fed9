#!/bin/bash
# mpirun over both hosts of up.sh NAME, started on the first:  mpirun.sh NAME -n 2 --map-by node PROGRAM …
# The hosts share the machine's cores without knowing: ranks are not bound, or both hosts would bind them to the same
# core, and yield while they wait.
here=$(cd "$(dirname "$0")" && pwd)
export LOCKSTEP_NETNS=$1
shift
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
exec ip netns exec "$LOCKSTEP_NETNS-a" unshare --uts bash -c 'hostname "$LOCKSTEP_NETNS-a"; exec "$@"' _ \
  mpirun --host 10.77.0.1:2,10.77.0.2:2 --mca plm_rsh_agent "$here/agent.sh" --mca btl vader,tcp,self \
  --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 --bind-to none --mca mpi_yield_when_idle 1 "$@"
