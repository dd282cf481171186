#!/bin/sh
# Find out by running one whether podman can run containers here, and print what CONTAINERS_CONF has to name for that:
# nothing, mostly. Otherwise the file is written into FOLDER. Where podman cannot, say why and fail.
#
#   containers/podman_conf.sh FOLDER
#
# Two things are in the way on some machines, root's too, and both have podman end before the container's first program:
# - without CAP_SYS_RESOURCE (inside many virtual machines and containers) nobody may raise the limits that podman sets
#   for open files and processes; the file has it set those that we have already;
# - crun does not run on "hybrid" cgroups (v1 with a v2 beside it); runc does.
# Nothing is written to /etc: others on this machine may need it as it is. CONTAINERS_CONF is read instead of it.
set -u

fail() { echo "podman does not run containers here: $*" >&2 && exit 1; }

[ $# -eq 1 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2 && exit 2; }
[ "$(uname)" = Linux ] || fail "this is not Linux"
command -v podman >/dev/null || fail "podman is not installed"
# the smallest container there is needs one program and no image
busybox=$(command -v busybox) || fail "busybox is not installed (Debian: busybox-static)"

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir "$root/bin" && cp "$busybox" "$root/bin/busybox"
works() { said=$(podman run --rm --network none --rootfs "$root" /bin/busybox true 2>&1 </dev/null); }

if works; then
    echo "${CONTAINERS_CONF-}"
    exit 0
fi
[ -z "${CONTAINERS_CONF-}" ] || fail "$said"

files=$(ulimit -Hn)
# podman itself goes down to as many processes as there can be numbers for
most=$(cat /proc/sys/kernel/pid_max)
processes=$(sed -n 's/^Max processes  *[^ ]*  *\([^ ]*\).*/\1/p' /proc/self/limits)
[ "$processes" != unlimited ] && [ "$processes" -le "$most" ] || processes=$most
mkdir -p "$1" || exit 1
CONTAINERS_CONF=$(cd "$1" && pwd)/containers.conf
export CONTAINERS_CONF
{
    command -v runc >/dev/null && printf '[engine]\nruntime = "runc"\n\n'
    printf '[containers]\ndefault_ulimits = ["nofile=%s:%s", "nproc=%s:%s"]\n' "$files" "$files" "$processes" "$processes"
} >"$CONTAINERS_CONF"
works || fail "$said"
echo "$CONTAINERS_CONF"
