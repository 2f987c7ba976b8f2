#!/usr/bin/env bash
# Locks every requirement anew, with hashes and without any download address. Needs `uv` on the PATH.
#
# One universal lock serves Python 3.11 to 3.14 on Linux and macOS. `requirements/lock.sh --upgrade` takes newer versions.
set -euo pipefail
cd "$(dirname "$0")/.."

lock() {
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --no-emit-find-links --no-annotate --no-header "$@"
}

lock "$@" pyproject.toml -o requirements/base.txt
lock "$@" requirements/dev.in -o requirements/dev.txt
lock "$@" requirements/build.in -o requirements/build.txt
lock "$@" --no-deps requirements/data.in -o requirements/data.txt
