#!/bin/bash
# The preStop hook of a router pod, run in Envoy's container. Envoy itself ends at once on SIGTERM;
# this lets it serve on until nothing is sent to it any more.
#
# usage: router-drain.sh ADMIN_PORT MIN_SECONDS MAX_SECONDS
set -u
admin_port=$1 min=$2 max=$3

# One request to the admin interface, which listens on loopback only. Images of Envoy have no curl.
admin() { # METHOD PATH
    local line
    exec 3<>"/dev/tcp/127.0.0.1/$admin_port" || return
    printf '%s %s HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n' "$1" "$2" >&3
    while read -r line <&3; do echo "${line%$'\r'}"; done
    exec 3>&-
}

# The sum of a counter or gauge of requests, without those to the admin interface and the metrics
# page.
requests() { # downstream_rq_active or downstream_rq_total
    local line sum=0
    while read -r line; do
        case $line in
        http.admin.* | http.stats.*) ;;
        http.*."$1":*) sum=$((sum + ${line##* })) ;;
        esac
    done < <(admin GET "/stats?filter=$1")
    echo "$sum"
}

# From here on /ready answers 503 and every answer asks the client to close its connection, so that
# clients with long connections come back through the Service and reach another router.
admin POST /healthcheck/fail >/dev/null
sleep "$min"
# A node that is busy takes this router out of the Services seconds later than others: 6 s were
# seen. So it ends once no request has come for 2 s, and none is in flight.
quiet=0 before=
until ((quiet >= 4 || SECONDS >= max)); do
    total=$(requests downstream_rq_total)
    quiet=$((quiet + 1))
    [[ $total == "$before" && $(requests downstream_rq_active) == 0 ]] || quiet=0
    before=$total
    sleep 0.5
done
