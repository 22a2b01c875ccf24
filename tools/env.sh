#!/bin/sh
# Makes .venv and installs Corral into it, editable, with the extras named as arguments: tools/env.sh dev codex
# Does nothing when that was done before with the same pyproject.toml and interpreter.
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "corral: $*" >&2; }
fail() {
    say "$*"
    exit 1
}

recent_enough() { # PYTHON
    "$1" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

pick_python() {
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" >/dev/null 2>&1 || fail "PYTHON=$PYTHON was not found."
        recent_enough "$PYTHON" || fail "PYTHON=$PYTHON is older than Python 3.11 or does not start."
        command -v "$PYTHON"
        return
    fi
    # Root runs the tests across accounts, and those need an interpreter that other accounts may enter.
    if [ "$(id -u)" = 0 ] && [ -x /usr/bin/python3 ] && recent_enough /usr/bin/python3; then
        echo /usr/bin/python3
        return
    fi
    for name in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
        if command -v "$name" >/dev/null 2>&1 && recent_enough "$name"; then
            command -v "$name"
            return
        fi
    done
    fail "Python 3.11 or newer is missing. Install it, or name one: make PYTHON=/path/to/python3"
}

has_venv() { # PYTHON
    "$1" -I -c 'import venv, ensurepip' >/dev/null 2>&1
}

need_venv_module() { # PYTHON
    has_venv "$1" && return
    version=$("$1" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "$1 has no venv module: installing python$version-venv with apt-get"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "python$version-venv" >&2
        has_venv "$1" && return
    fi
    fail "$1 has no venv module. On Debian or Ubuntu: apt-get install python$version-venv"
}

make_venv() {
    if [ -x .venv/bin/python ] && recent_enough .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1; then
        if [ -z "${PYTHON:-}" ] || [ "$(origin .venv/bin/python)" = "$(origin "$PYTHON")" ]; then
            return
        fi
    fi
    python=$(pick_python)
    need_venv_module "$python"
    say "making .venv with $python ($("$python" -V 2>&1))"
    "$python" -m venv --clear .venv || fail "$python -m venv .venv did not work (its message is above)."
}

origin() { # PYTHON -> where its standard library is, to tell two interpreters apart
    "$1" -I -c 'import sys; print(sys.base_prefix, sys.version)'
}

stamp() {
    cksum <pyproject.toml
    pwd
}

is_current() { # EXTRA
    [ -f ".venv/installed-$1" ] && [ "$(cat ".venv/installed-$1")" = "$(stamp)" ]
}

install() { # EXTRA...
    missing=
    for extra in "$@"; do
        is_current "$extra" || missing="$missing,$extra"
    done
    [ -n "$missing" ] || return 0
    say "installing Corral and [${missing#,}] into .venv"
    quiet=--quiet
    [ ! -t 1 ] || quiet= # there pip shows a bar, which tells that a long download goes on
    # shellcheck disable=SC2086 # one word or none
    PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install $quiet --editable ".[${missing#,}]" ||
        fail "pip could not install [${missing#,}] (its message is above). It needs the Python package index once."
    for extra in "$@"; do
        stamp >".venv/installed-$extra"
    done
}

make_venv
install "$@"
