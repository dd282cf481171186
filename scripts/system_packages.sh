#!/bin/sh
# Programs that the tests drive and pip cannot bring: Chromium, and on Linux bubblewrap and strace.
# As root on Debian they are installed; elsewhere what is missing is named, and the tests that need it fail by themselves.
set -u

missing=""
if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null &&
    ! [ -d "/Applications/Google Chrome.app" ] && ! [ -d "/Applications/Chromium.app" ]; then
    missing="chromium"
fi
if [ "$(uname)" = Linux ]; then
    command -v bwrap >/dev/null || missing="$missing bubblewrap"
    command -v strace >/dev/null || missing="$missing strace"
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
echo "Missing: $missing. Install with your system's package manager; the tests that need it will fail until then." >&2
