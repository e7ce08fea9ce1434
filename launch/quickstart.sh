#!/usr/bin/env bash
# Train a small diffusion model on the embedded digits and draw samples from it, on a CPU, in minutes.
#
#     bash launch/quickstart.sh
#
# Makes a virtual environment in .venv if there is none. Run it again as often as you like: what is done stays done.
# PYTHON (python3): the interpreter that makes .venv, 3.11 or newer.
# WORKDIR (runs/digits): where the run goes; relative to the root of the repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source launch/venv.sh
WORKDIR=${WORKDIR:-runs/digits}

make_venv .venv

start=$SECONDS
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable .
installed=$SECONDS
.venv/bin/python -m diffusion_jax.main train --config=configs/digits.py --workdir="$WORKDIR"
trained=$SECONDS
.venv/bin/python -m diffusion_jax.main sample --workdir="$WORKDIR" --num_samples=64 --seed=0 --out="$WORKDIR/samples.npz"
sampled=$SECONDS

echo
echo "installed in $((installed - start)) s, trained in $((trained - installed)) s, sampled in $((sampled - trained)) s"
echo "64 samples: $WORKDIR/samples.png (arrays: $WORKDIR/samples.npz); the run: $WORKDIR"
