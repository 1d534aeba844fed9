#!/bin/bash
# cut.sh NAME down|up: cuts the link between the hosts of up.sh NAME, or joins it again.
exec ip -n "$1-a" link set v1 "$2"
