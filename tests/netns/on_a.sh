#!/bin/bash
# on_a.sh NAME COMMAND…: on the first host of up.sh NAME. What mpirun needs to reach both stands in its environment.
here=$(cd "$(dirname "$0")" && pwd)
export LOCKSTEP_NETNS=$1
shift
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_plm_rsh_agent=$here/agent.sh OMPI_MCA_btl=vader,tcp,self OMPI_MCA_mpi_yield_when_idle=1
export OMPI_MCA_btl_tcp_if_include=10.77.0.0/24 OMPI_MCA_oob_tcp_if_include=10.77.0.0/24
exec ip netns exec "$LOCKSTEP_NETNS-a" unshare --uts bash -c 'hostname "$LOCKSTEP_NETNS-a"; exec "$@"' _ "$@"
