#!/bin/sh
# Print the first Python that can make an environment (>= $1 or 3.11, with venv and pip), or say what is missing.
set -u

least=${1:-3.11}
seen=""
# those of pyenv too: its python3.13 on the PATH works only once that version was chosen
pyenv=$(ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python3 2>/dev/null)
for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14 $pyenv}; do
    version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    if ! "$candidate" -c "import sys; sys.exit(sys.version_info < tuple(map(int, '$least'.split('.'))))"; then
        seen="$seen $candidate is $version;"
    elif ! "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
        seen="$seen $candidate ($version) lacks venv (Debian, Ubuntu: apt install python$version-venv);"
    else
        command -v "$candidate"
        exit 0
    fi
done

echo "Missing: Python $least or newer with its venv module. Found:${seen:- no python3 at all}" >&2
echo "Install it, or name one: make ${2:-PYTHON}=/path/to/python3 ..." >&2
exit 1
