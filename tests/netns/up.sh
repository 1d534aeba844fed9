#!/bin/bash
# up.sh NAME: two hosts on one machine, NAME-a (10.77.0.1) and NAME-b (10.77.0.2): network namespaces that are joined by
# a veth pair. Names are the caller's, so that several pairs can stand side by side. Needs root and iproute2; leaves
# nothing behind when it fails.
set -e
name=$1
here=$(cd "$(dirname "$0")" && pwd)
trap '"$here/down.sh" "$name" 2>/dev/null || true' ERR
# What a test that was killed left behind: its process, whose id the name holds, is no more.
for old in $(ip netns list | sed -n 's/^\(lockstep-[0-9]*\)-a\b.*/\1/p'); do
  kill -0 "${old#lockstep-}" 2>/dev/null || "$here/down.sh" "$old" 2>/dev/null || true
done
ip netns add "$name-a"
ip netns add "$name-b"
ip link add v1 netns "$name-a" type veth peer name v2 netns "$name-b"
ip -n "$name-a" addr add 10.77.0.1/24 dev v1
ip -n "$name-b" addr add 10.77.0.2/24 dev v2
ip -n "$name-a" link set lo up
ip -n "$name-b" link set lo up
ip -n "$name-a" link set v1 up
ip -n "$name-b" link set v2 up
