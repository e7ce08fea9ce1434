#!/usr/bin/env bash
# What must hold before a change is done: lint, format, types, tests. Other arguments than --all go to pytest.
#
#     bash launch/test.sh                               all tests but those marked slow
#     bash launch/test.sh --all                         all tests
#     bash launch/test.sh tests/process -k cosine       these tests
#
# Makes a virtual environment if there is none, and installs into it only when setup.py has changed since.
# PYTHON (python3): the interpreter that makes it, 3.11 or newer.   VENV (.venv): where it is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case ${1-} in
    "") set -- -m "not slow" ;;
    --all) shift ;;
esac

source launch/venv.sh
VENV=${VENV:-.venv}

make_venv "$VENV"
PATH=$(cd "$VENV/bin" && pwd):$PATH

part() {
    local start=$SECONDS name=$1 code=0
    shift
    echo "== $name"
    "$@" || code=$?
    echo "== $name: $((SECONDS - start)) s"
    return $code
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

# tests/canary.py watches the arithmetic of the machine meanwhile. Only if it saw a wrong result, what failed runs again.
wrong=$(mktemp)
JAX_PLATFORMS=cpu python tests/canary.py "$wrong" &
canary=$!
trap 'kill $canary 2>/dev/null; rm -f "$wrong"' EXIT
# loadfile: what a file's tests share is made once. The order of the files is that of tests/conftest.py.
tests=(python -m pytest -n 2 --dist loadfile --no-loadscope-reorder)
code=0
part tests "${tests[@]}" "$@" || code=$?
kill -0 $canary 2>/dev/null || echo "== canary: it ended early; nothing watched the arithmetic of this machine"
if [ -s "$wrong" ]; then
    echo "== canary: THIS MACHINE COMPUTED WRONGLY $(wc -l <"$wrong") times while the tests ran:"
    head -n 20 "$wrong"
    if [ $code = 1 ]; then
        echo "== canary: what failed runs once more"
        code=0
        part again "${tests[@]}" --last-failed --last-failed-no-failures none "$@" || code=$?
    fi
fi
exit $code
