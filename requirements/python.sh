#!/usr/bin/env bash
# Prints the best Python for the virtual environment (3.14 to 3.11, what the locks cover), or says what is missing. PYTHON=… decides.
set -u

suits='import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))'
for name in ${PYTHON:-python3.14 python3.13 python3.12 python3.11 python3}; do
    found=$(command -v "$name") || continue
    if "$found" -c "$suits" 2>/dev/null; then
        echo "$found"
        exit 0
    fi
done

{
    echo "No Python 3.11 to 3.14 with the modules venv and ensurepip was found (looked at: ${PYTHON:-python3.14 … python3.11, python3})."
    command -v python3 >/dev/null && echo "python3 here is $(python3 --version 2>&1)."
    echo "Install one (on Debian and Ubuntu venv is a package of its own: python3-venv), or name one: make PYTHON=/path/to/python3.12 …"
} >&2
exit 1
