#!/bin/sh
# Print the first Python that can make our environment (>= 3.11, with venv and pip), or say what is missing.
set -u

seen=""
for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14}; do
    version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    if ! "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        seen="$seen $candidate is $version;"
    elif ! "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
        seen="$seen $candidate ($version) lacks venv (Debian, Ubuntu: apt install python$version-venv);"
    else
        command -v "$candidate"
        exit 0
    fi
done

echo "Missing: Python 3.11 or newer with its venv module. Found:${seen:- no python3 at all}" >&2
echo "Install it, or name one: make PYTHON=/path/to/python3 ..." >&2
exit 1
