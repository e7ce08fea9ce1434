# shellcheck shell=bash
# Sourced by the scripts beside it, from the root of the repository: makes the virtual environment $1 if there is none.
# PYTHON (python3): the interpreter that makes it, 3.11 or newer.
PYTHON=${PYTHON:-python3}

make_venv() {
    [ -x "$1/bin/python" ] && return
    command -v "$PYTHON" >/dev/null || { echo "no $PYTHON; install Python 3.11 or newer, or say PYTHON=..." >&2; exit 1; }
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        { echo "$PYTHON is $("$PYTHON" -V); Python 3.11 or newer is needed: PYTHON=python3.12 bash $0" >&2; exit 1; }
    if ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then # Debian keeps them in a package of their own
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
        fi
        "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
            { echo "$PYTHON cannot make virtual environments; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
    fi
    "$PYTHON" -m venv "$1"
}
