#!/bin/bash
# What mpirun starts instead of ssh:  agent.sh [options] host command…
while [[ "$1" == -* ]]; do shift; done
case $1 in
  10.77.0.1) host=$LOCKSTEP_NETNS-a ;;
  10.77.0.2) host=$LOCKSTEP_NETNS-b ;;
  *) echo "agent.sh: no host $1" >&2; exit 255 ;;
esac
shift
# A host behind a cut link (cut.sh) does not answer.
while [ "$host" = "$LOCKSTEP_NETNS-b" ] &&
  ! ip -n "$LOCKSTEP_NETNS-a" link show v1 | grep -q '[<,]UP[,>]'; do sleep 0.2; done
# As with ssh, what was started there does not end with the agent: it is a process group of its own whose parent is gone,
# so that nothing reaches it when the agent ends. It is no session of its own, since the kernel gives each of those its
# share of the cpus (sched_autogroup), and Linux 6.18 shares so badly among several crowded ones that single threads
# stand still for seconds.
exec 3<&0 4>&1
pid=$(
  set -m
  ip netns exec "$host" unshare --uts sh -c "hostname $host; $*" <&3 >&4 3<&- 4>&- &
  echo $!
)
while state=$(cut -d ' ' -f 3 "/proc/$pid/stat" 2>/dev/null) && [ "$state" != Z ]; do sleep 0.2; done
