#!/usr/bin/env bash
# Make .venv in this clone and install fxquant into it.
#
#   bash tools/setup.sh demo     what `fxquant demo` needs
#   bash tools/setup.sh tests    what the tests need, fxquant itself installed editable
#
# On Debian it installs the system packages that are missing (with sudo when not root). PYTHON chooses the interpreter.
# Running it again changes nothing that is in place.
set -euo pipefail
cd "$(dirname "$0")/.."

# Only what a machine may lack: the tests call no compiler and no binary tools.
DEBIAN_PACKAGES=(python3 python3-venv)

say() { printf 'setup: %s\n' "$1" >&2; }
fail() { say "$1"; exit 1; }

# The interpreter to use: 3.11 or newer, and able to make virtual environments.
usable() { "$1" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3; do
        if usable "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
}

install_debian_packages() {
    command -v apt-get >/dev/null ||
        fail "no Python 3.11 or newer with venv here, and no apt-get: install them, or say PYTHON=/path/to/python3.11"
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || fail "ask an administrator for: apt-get install ${DEBIAN_PACKAGES[*]}"
        as_root=(sudo)
    fi
    say "installing Debian packages: ${DEBIAN_PACKAGES[*]}"
    "${as_root[@]}" apt-get update
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --no-install-recommends "${DEBIAN_PACKAGES[@]}"
}

case "${1:-}" in
    demo) what=(".[demo]") ;;
    tests) what=(--editable ".[test,demo]") ;;
    *) fail "say what for: bash tools/setup.sh demo, or bash tools/setup.sh tests" ;;
esac

python=$(find_python)
if [ -z "$python" ]; then
    install_debian_packages
    python=$(find_python)
    [ -n "$python" ] || fail "still no Python 3.11 or newer with venv: say PYTHON=/path/to/python3.11"
fi

# A half-made environment (an interrupted first run) has no pip: make it again.
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
# Byte code is written at the first import, of what is imported: much less than what is installed.
pip=(.venv/bin/python -m pip install --disable-pip-version-check --no-compile)
# First and by itself: given nothing else to weigh, pip takes the CPU build wherever it finds one.
"${pip[@]}" "torch==2.13.0"
"${pip[@]}" "${what[@]}"
say "done: .venv/bin/fxquant --help"
