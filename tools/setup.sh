#!/usr/bin/env bash
# Make .venv in this clone and install fxquant into it.
#
#   bash tools/setup.sh demo     what `fxquant demo` needs
#   bash tools/setup.sh tests    what the tests need, fxquant itself installed editable; cross compilers, QEMU, a browser
#
# On Debian it installs the system packages that are missing (with sudo when not root). PYTHON chooses the interpreter.
# Running it again changes nothing that is in place.
set -euo pipefail
cd "$(dirname "$0")/.."

DEBIAN_PACKAGES=(python3 python3-venv)
# For the tests of standalone code; those of a target whose programs are missing are skipped, with the reason.
CROSS_PACKAGES=(gcc libc6-dev gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-arm-linux-gnueabihf libc6-dev-armhf-cross
    gcc-arm-none-eabi libnewlib-arm-none-eabi gcc-riscv64-unknown-elf qemu-user qemu-system-arm qemu-system-misc)
# For the tests of the viewer's page.
BROWSER_PACKAGES=(chromium)
CROSS_PROGRAMS=(gcc aarch64-linux-gnu-gcc arm-linux-gnueabihf-gcc arm-none-eabi-gcc riscv64-unknown-elf-gcc
    qemu-aarch64 qemu-arm qemu-system-arm qemu-system-riscv32)

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
        fail "no apt-get here: install ${*} yourself (for Python, PYTHON=/path/to/python3.11 will do)"
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || fail "ask an administrator for: apt-get install ${*}"
        as_root=(sudo)
    fi
    say "installing Debian packages: ${*}"
    "${as_root[@]}" apt-get update
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --no-install-recommends "$@"
}

install_cross_tools() {
    local program
    for program in "${CROSS_PROGRAMS[@]}"; do
        command -v "$program" >/dev/null && continue
        command -v apt-get >/dev/null || { say "no $program and no apt-get: tests that need it are skipped"; return; }
        install_debian_packages "${CROSS_PACKAGES[@]}"
        return
    done
}

install_browser() {
    command -v chromium >/dev/null && return
    command -v apt-get >/dev/null || { say "no chromium and no apt-get: the viewer's tests are skipped"; return; }
    install_debian_packages "${BROWSER_PACKAGES[@]}"
}

# An arm64 Python with numpy, from Debian's packages, unpacked: QEMU runs it in the tests of hosted code for Arm. Nothing
# of this system is changed, and root is not asked for.
unpack_arm64_python() {
    [ -e .venv/arm64/usr/bin/python3 ] && return
    command -v apt-get >/dev/null || { say "no apt-get: tests of hosted Arm code are skipped"; return; }
    local state names deb
    state=$(mktemp -d)
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
    local settings=(-o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Sandbox::User=
        -o "Dir::State::lists=$state/lists" -o "Dir::Cache=$state/cache" -o Dir::State::status=/dev/null)
    say "unpacking an arm64 Python into .venv/arm64"
    if apt-get "${settings[@]}" --quiet --quiet update &&
        names=$(apt-cache "${settings[@]}" depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
            --no-replaces --no-enhances python3-minimal libpython3-stdlib python3-numpy |
            grep '^[a-z]' | grep -vE 'openblas|atlas|blis|mkl|dpkg|install-info|perl') &&
        # shellcheck disable=SC2086 # names are words
        (cd "$state" && apt-get "${settings[@]}" --quiet --quiet download $names); then
        for deb in "$state"/*.deb; do dpkg-deb --extract "$deb" .venv/arm64; done
    else
        say "Debian's arm64 packages are not to be had: tests of hosted Arm code are skipped"
    fi
    rm -rf "$state"
}

case "${1:-}" in
    demo) what=(".[demo]") ;;
    tests) what=(--editable ".[test,demo]"); install_cross_tools; install_browser ;;
    *) fail "say what for: bash tools/setup.sh demo, or bash tools/setup.sh tests" ;;
esac

python=$(find_python)
if [ -z "$python" ]; then
    install_debian_packages "${DEBIAN_PACKAGES[@]}"
    python=$(find_python)
    [ -n "$python" ] || fail "still no Python 3.11 or newer with venv: say PYTHON=/path/to/python3.11"
fi

# A half-made environment (an interrupted first run) has no pip: make it again.
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
[ "$1" = demo ] || unpack_arm64_python
# Byte code is written below, of what is imported: much less than what is installed.
pip=(.venv/bin/python -m pip install --disable-pip-version-check --no-compile)
# First and by itself: given nothing else to weigh, pip takes the CPU build wherever it finds one.
"${pip[@]}" "torch==2.13.0"
"${pip[@]}" "${what[@]}"
# Container images like to set PYTHONDONTWRITEBYTECODE, with which every process would compile torch's sources anew.
env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -W ignore -c '
import torch
import fxquant.cli, fxquant.targets.hosted.compiler
fxquant.trace(torch.nn.Identity(), torch.zeros(1, 1))'
say "done: .venv/bin/fxquant --help"
