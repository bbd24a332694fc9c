#!/bin/bash
# Starts Envoy with its bootstrap, which listens on all addresses of both families; on those of IPv4
# alone where the kernel has no IPv6.
#
# usage: router-start.sh BOOTSTRAP [ARGUMENT OF ENVOY]…
set -eu
bootstrap=$(<"$1")
shift
if [[ ! -e ${IF_INET6:-/proc/net/if_inet6} ]]; then
    bootstrap=${bootstrap//'"::", ipv4_compat: true'/0.0.0.0}
    bootstrap=${bootstrap//'"::"'/0.0.0.0}
fi
exec envoy --config-yaml "$bootstrap" "$@"
