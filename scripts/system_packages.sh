#!/bin/sh
# Programs that the tests drive and pip cannot bring: Chromium, and on Linux bubblewrap, strace, and podman with a runtime,
# an init for its containers and a static busybox to try it with.
# As root on Debian they are installed; elsewhere what is missing is named. Tests of containers are then skipped, each
# with the reason; other tests that need what is missing fail by themselves.
set -u

missing=""
needs() { command -v "$1" >/dev/null || missing="$missing $2"; }

if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null &&
    ! [ -d "/Applications/Google Chrome.app" ] && ! [ -d "/Applications/Chromium.app" ]; then
    missing="chromium"
fi
if [ "$(uname)" = Linux ]; then
    needs bwrap bubblewrap
    needs strace strace
    needs podman podman
    # beside crun, if podman came with that: it runs where crun does not (containers/podman_conf.sh)
    needs runc runc
    needs catatonit catatonit
    needs busybox busybox-static
    # an ordinary user's containers have accounts of their own by it
    [ "$(id -u)" -eq 0 ] || needs newuidmap uidmap
fi
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -eq 0 ] && [ -f /etc/debian_version ] && command -v apt-get >/dev/null; then
    echo "Installing with apt-get: $missing"
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    # shellcheck disable=SC2086 # a list of words
    if { apt-get update && apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1 </dev/null; then
        rm -f "$log"
        exit 0
    fi
    tail -n 20 "$log" >&2
    rm -f "$log"
fi
echo "Missing: $missing. Install with your system's package manager; tests that need it fail until then, those of containers are skipped." >&2
