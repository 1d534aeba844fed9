#!/bin/bash
# down.sh NAME: takes away what up.sh NAME made.
ip netns del "$1-a"
ip netns del "$1-b"
