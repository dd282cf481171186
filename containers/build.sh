#!/usr/bin/env bash
# Build the image of a project and print its name. What is built already is not built again.
#
#   containers/build.sh [--base IMAGE] [--wheels FOLDER] [--tag NAME]
#
#   --base IMAGE      build on this image, which podman has, with Python 3.11 or newer; without it on a Debian made of this
#                     Debian's own files
#   --wheels FOLDER   wheels of what the image needs, ours too if it is there; without it pip downloads them, once
#   --tag NAME        a name that stays
#
# The name printed is localhost/jupyter-acp-project:<hash of all that goes into it>; it goes when another image is built.
# No image registry is asked. Inside the build there is no network, unless --base comes without --wheels: that image may
# lack git. PYTHON names another Python with pip than that of .venv.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
base="" wheels="" tag="" network="--network none"
while [ $# -gt 0 ]; do
    case $1 in
    --base) base=$2 ;;
    --wheels) wheels=$(cd "$2" && pwd) ;;
    --tag) tag=$2 ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
    esac
    shift 2
done
python=${PYTHON:-$root/.venv/bin/python}
[ -x "$python" ] || python=python3

say() { echo "$*" >&2; }
digest() { sha256sum | cut -c 1-12; }
quietly() { "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2 && exit 1; }; }

kept=$root/build/containers
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

packages="bash ca-certificates coreutils git libstdc++6 mawk passwd procps python3 python3-venv tzdata"
debian=""
[ -z "$base" ] || [ -n "$wheels" ] || network=""
if [ -z "$base" ]; then
    if ! [ -r /var/lib/dpkg/status ]; then
        say "This is no Debian whose files could be used. Name an image with Python 3.11 or newer: --base IMAGE"
        exit 1
    fi
    base=localhost/jupyter-acp-base:$({ echo "$packages" && cat "$here/debian_rootfs.py" /var/lib/dpkg/status; } | digest)
    debian=yes
fi

# the panel is for the browser; a project's server has no use for it
sources() {
    cd "$root"
    find pyproject.toml README.md LICENSE install.json jupyter-config jupyter_acp -type f \
        -not -path '*/__pycache__/*' -not -path 'jupyter_acp/labextension/*' | LC_ALL=C sort
}
inputs() {
    echo "$base"
    [ -n "$debian" ] || podman image inspect --format '{{.Id}}' "$base"
    cd "$root"
    { sources && printf '%s\n' containers/build.sh containers/Containerfile requirements/project.txt; } | xargs sha256sum
    [ -z "$wheels" ] || find "$wheels" -type f | LC_ALL=C sort | xargs sha256sum
}
image=localhost/jupyter-acp-project:$(inputs | digest)

make_base() {
    say "Making $base from this Debian's files"
    /usr/bin/python3 "$here/debian_rootfs.py" "$work/root.tar" $packages
    quietly podman import --change 'CMD ["/bin/bash"]' "$work/root.tar" "$base"
    rm "$work/root.tar"
}

# Our wheel, into the build context
make_package() {
    if [ -n "$wheels" ] && ls "$wheels"/jupyter_acp_coordinator-*.whl >/dev/null 2>&1; then
        cp "$wheels"/jupyter_acp_coordinator-*.whl "$work/context"
        return
    fi
    sources | (cd "$root" && xargs cp --parents --target-directory "$work/package")
    mkdir -p "$work/package/jupyter_acp/labextension"
    local isolation=""
    "$python" -c 'import hatchling, hatch_jupyter_builder' 2>/dev/null && isolation=--no-build-isolation
    SKIP_JUPYTER_BUILDER=1 quietly "$python" -m pip wheel --no-deps $isolation --wheel-dir "$work/context" "$work/package"
}

# What our wheel needs, for the Python of the image, which may be older than ours
download() {
    local version
    version=$(podman run --rm --pull=never --network none --entrypoint python3 "$base" -c \
        'import platform; print(platform.python_version())')
    wheels=$({ echo "$version $(uname -m)" && cat "$root/pyproject.toml" "$root/requirements/project.txt"; } | digest)
    wheels=$kept/wheels-$wheels
    [ ! -d "$wheels" ] || return 0
    say "Downloading wheels for Python $version"
    quietly "$python" -m pip download --only-binary :all: --python-version "$version" --dest "$work/wheels" \
        --constraint "$root/requirements/project.txt" "$work"/context/*.whl ipykernel
    rm "$work"/wheels/jupyter_acp_coordinator-*
    rm -rf "$kept"/wheels-*
    # somebody else may have been quicker
    mv -T "$work/wheels" "$wheels" 2>/dev/null || [ -d "$wheels" ]
}

# The images of this tree that this one takes the place of; podman keeps what has another name, or is in use
forget_others() {
    local others
    others=$(grep -vxF -e "$image" -e "$base" "$kept/images" 2>/dev/null || true)
    [ -z "$others" ] || podman rmi $others >/dev/null 2>&1 || true
    printf '%s\n' "$image" ${debian:+"$base"} >"$kept/images"
}

if ! podman image exists "$image"; then
    mkdir -p "$kept"
    CONTAINERS_CONF=$("$here/podman_conf.sh" "$kept")
    export CONTAINERS_CONF
    [ -z "$debian" ] || podman image exists "$base" || make_base
    mkdir "$work/context" "$work/package"
    make_package
    [ -n "$wheels" ] || download
    cp "$here/Containerfile" "$work/context"
    name=wheels-$(ls "$wheels" | digest)
    cp -r "$wheels" "$work/context/$name"
    say "Building $image"
    # shellcheck disable=SC2086 # two words or none
    quietly podman build --pull=never $network --build-arg "BASE=$base" --build-arg "WHEELS=$name" \
        --tag "$image" "$work/context"
    forget_others
fi
[ -z "$tag" ] || podman tag "$image" "$tag"
echo "$image"
