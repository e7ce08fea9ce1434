#!/usr/bin/env bash
# Everything that must hold before a change is done: lint, format, types, tests. Arguments go to pytest.
#
#     bash launch/test.sh
#     bash launch/test.sh tests/process -k cosine
#
# Makes a virtual environment if there is none, and installs into it only when setup.py has changed since.
# PYTHON (python3): the interpreter that makes it, 3.11 or newer.   VENV (.venv): where it is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source launch/venv.sh
VENV=${VENV:-.venv}

make_venv "$VENV"
PATH=$(cd "$VENV/bin" && pwd):$PATH

part() {
    local start=$SECONDS name=$1
    shift
    echo "== $name"
    "$@"
    echo "== $name: $((SECONDS - start)) s"
}

install() {
    python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
    cksum setup.py >"$VENV/installed"
}

if [ "$(cat "$VENV/installed" 2>/dev/null)" != "$(cksum setup.py)" ]; then
    part install install
fi
part lint ruff check
part format ruff format --check
part types mypy
# A test that fails runs again, up to three times and some seconds apart, and the summary counts it: virtual machines
# were seen on which, for a second or so, NumPy alone computes a wrong cosine or exponential.
# loadfile: what a file's tests share is made once. The order of the files is that of tests/conftest.py.
part tests python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --reruns 3 --reruns-delay 8 "$@"
