#!/bin/bash
# down.sh NAME: takes away what up.sh NAME made, and what still runs there: the daemon of a host that was cut off.
for host in "$1-a" "$1-b"; do
  ip netns pids "$host" 2>/dev/null | xargs -r kill -KILL 2>/dev/null
  ip netns del "$host"
done
