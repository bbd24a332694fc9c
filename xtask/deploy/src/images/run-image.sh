#!/bin/sh
# Runs an unpacked image as a container runtime would: a root that cannot be written, user 65532, a network of its own.
# Inside mount, network and pid namespaces: sh run-image.sh ROOT MODEL VARIABLE=VALUE…
#
# Fails unless the health check tells a server that is ready from one that has ended, and SIGTERM ends the server with 0.
# Prints the server's own line about being ready, then its resident memory in KiB. Its log is ROOT.log.
set -eu
root=$1
model=$2
shift 2
environment=$*

ip link set lo up
mkdir "$root/proc"
mount --make-rprivate /
mount --bind "$root" "$root"
mount --bind -o ro "$model" "$root/models"
mount -t proc proc "$root/proc"
mount -o remount,bind,ro "$root"

serin_serve() {
    # shellcheck disable=SC2086 # the image's variables have no spaces
    exec env -i $environment /usr/sbin/chroot --userspec=65532:65532 --groups=65532 "$root" /usr/local/bin/serin-serve "$@"
}

serin_serve serve --model-dir /models --drain-delay 0s > "$root.log" 2>&1 &
server=$!
until (serin_serve healthcheck) 2> /dev/null; do
    kill -0 "$server" || { cat "$root.log" >&2; exit 1; }
    sleep 0.05
done
grep -m 1 '"message":"ready' "$root.log"
sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB$/\1/p' "$root/proc/$server/status"
kill -TERM "$server"
wait "$server"
if (serin_serve healthcheck) 2> /dev/null; then
    echo "the health check finds a server that has ended healthy" >&2
    exit 1
fi
