#!/usr/bin/env bash
# Time the same work here and in PyTorch, in alternation: diffusers' UNet2DModel, eager and compiled, and
# denoising-diffusion-pytorch. Nothing of them is part of this project; they are installed into an environment of their own.
#
#     bash launch/compare_peers.sh                       # what suits this machine: the CPU's cases, or the GPU's
#     bash launch/compare_peers.sh --cases=train,call    # see python launch/compare_peers.py --help
#     bash launch/compare_peers.sh --cases=train --batches=256 --peers=diffusers:eager,diffusers:compile
#
# PEERS (.venv-peers): that environment; PEERS_PYTHON: an interpreter that has the peers already, instead of it.
# TORCH (torch torchvision): what pip is to install, for example another build of them.
# PYTHON: the interpreter of this side (.venv/bin/python if there is one, else python3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
here=${PYTHON:-}
[ -n "$here" ] || { [ -x .venv/bin/python ] && here=.venv/bin/python; } || here=python3

if [ -z "${PEERS_PYTHON:-}" ]; then
    PEERS=${PEERS:-.venv-peers}
    unset PYTHON
    source launch/venv.sh
    make_venv "$PEERS"
    if [ ! -e "$PEERS/installed" ]; then
        read -ra torch <<<"${TORCH:-torch torchvision}"
        "$PEERS/bin/python" -m pip install --quiet --disable-pip-version-check \
            "${torch[@]}" diffusers denoising-diffusion-pytorch
        touch "$PEERS/installed"
    fi
    PEERS_PYTHON=$PEERS/bin/python
fi
exec "$here" launch/compare_peers.py --peers_python="$PEERS_PYTHON" "$@"
