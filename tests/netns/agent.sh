#!/bin/bash
# What mpirun starts instead of ssh:  agent.sh [options] host command…
while [[ "$1" == -* ]]; do shift; done
case $1 in
  10.77.0.1) host=$LOCKSTEP_NETNS-a ;;
  10.77.0.2) host=$LOCKSTEP_NETNS-b ;;
  *) echo "agent.sh: no host $1" >&2; exit 255 ;;
esac
shift
exec ip netns exec "$host" unshare --uts sh -c "hostname $host; $*"
