#!/usr/bin/env bash
# Figures of one GPU, in parts of less than nine minutes that write JSON as they go and continue where they stopped.
#
#     bash launch/gpu_figures.sh                 # all parts, each as often as it takes
#     bash launch/gpu_figures.sh a c             # some parts, once each; exit code 75: start them again to continue
#     bash launch/gpu_figures.sh summary         # the tables of docs/results, from the JSON
#     TINY=1 bash launch/gpu_figures.sh          # everything with tiny variants, on any machine, in minutes
#
# a  CIFAR-10 training step at batch 128, 256 and 512, against diffusers eager and compiled
# b  256 px training step, batch 64, bfloat16, without remat
# c  256 samples in 1,000 steps, against diffusers' DDPMPipeline
# d  fashion_ddpm:gpu, fashion_vlb:gpu and mnist_vlb:gpu, trained and evaluated
# e  dpm2015_mnist:paper and dpm2015_deadleaves:paper, trained for as long as a call lasts, and evaluated
# f  every command and every parallel mode, once
# g  time of the training step by kind of kernel
#
# Needs neither a network nor TensorFlow.
# PYTHON (.venv/bin/python if there is one, else python3); PEERS_PYTHON ($PYTHON): an interpreter with PyTorch and
# diffusers; where they are missing, this side is timed alone. OUT (runs/gpu): folder of JSON and runs.
# DATA (data): folder with mnist/ and fashion-mnist/. SECONDS_PER_PART (530).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-}
[ -n "$python" ] || { [ -x .venv/bin/python ] && python=.venv/bin/python; } || python=python3
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
flags=(--out="${OUT:-runs/gpu}" --data="${DATA:-data}" --peers_python="${PEERS_PYTHON:-$python}")
flags+=(--seconds="${SECONDS_PER_PART:-530}" ${TINY:+--tiny})

if [ $# -gt 0 ]; then
    code=0
    for part in "$@"; do
        "$python" launch/gpu_figures.py "$part" "${flags[@]}" || code=$?
    done
    exit $code
fi
for part in a b c d e f g; do
    for _ in $(seq 20); do # a call that stops early because its time is over is followed by another
        "$python" launch/gpu_figures.py "$part" "${flags[@]}"
        [ $? = 75 ] || break
    done
done
"$python" launch/gpu_figures.py summary "${flags[@]}"
