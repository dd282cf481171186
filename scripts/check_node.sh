#!/bin/sh
# Node builds the panel and is what several agents run on. Say what is missing before anything is downloaded.
set -u

if ! version=$(node --version 2>/dev/null); then
    echo "Missing: Node.js 20 or newer (found no node). See https://nodejs.org" >&2
    exit 1
fi
major=${version#v}
major=${major%%.*}
if [ "$major" -lt 20 ]; then
    echo "Missing: Node.js 20 or newer (found $version). See https://nodejs.org" >&2
    exit 1
fi
