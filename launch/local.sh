#!/usr/bin/env bash
# Run a command of diffusion_jax as N processes on this machine: on its CPU, or with its NVIDIA GPUs divided among them.
#
#     bash launch/local.sh -n 2 train --config=configs/digits.py --workdir=runs/digits
#
# Process 0 has the terminal; what the others say comes after [1], [2], …, on standard error. SIGTERM and Ctrl-C are
# passed on as SIGTERM: training finishes its step, saves and exits with 75. When a process dies the others are killed.
# The exit code is 0, or 75 where a process gave that, or that of the first one that died.
# PYTHON (.venv/bin/python if there is one, else python3).   JAX_PLATFORMS=cpu leaves the GPUs alone.
# JAX_NUM_CPU_DEVICES: devices of each process on a CPU.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
usage() { echo "usage: bash launch/local.sh -n N [--] COMMAND --flags" >&2; exit 2; }

n=
while getopts n: option; do
    case $option in n) n=$OPTARG ;; *) usage ;; esac
done
shift $((OPTIND - 1))
[[ $n =~ ^[1-9][0-9]*$ && $# -gt 0 ]] || usage

[ -n "${PYTHON:-}" ] || { [ -x "$root/.venv/bin/python" ] && PYTHON=$root/.venv/bin/python; } || PYTHON=python3
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

gpus=()
if [ "${JAX_PLATFORMS:-}" != cpu ] && command -v nvidia-smi >/dev/null; then
    visible=${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index --format=csv,noheader | paste -sd,)}
    IFS=, read -ra gpus <<<"$visible"
fi
share=$((${#gpus[@]} / n))
if [ $((share * n)) != ${#gpus[@]} ]; then
    echo "error: ${#gpus[@]} GPUs cannot be divided among -n $n processes; use another -n, or JAX_PLATFORMS=cpu" >&2
    exit 2
fi

port=$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
pids=()
trap 'kill -KILL "${pids[@]}" 2>/dev/null || true' EXIT # nothing is left behind, whatever happens
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
for ((i = 0; i < n; i++)); do
    command=("$PYTHON" -m diffusion_jax.main "$@")
    command+=("--coordinator_address=127.0.0.1:$port" "--num_processes=$n" "--process_id=$i")
    if [ "$share" -gt 0 ]; then
        command=(env "CUDA_VISIBLE_DEVICES=$(IFS=,; echo "${gpus[*]:i*share:share}")" "${command[@]}")
    fi
    if [ "$i" = 0 ]; then
        "${command[@]}" &
    else
        "${command[@]}" > >(sed -u "s/^/[$i] /" >&2) 2>&1 &
    fi
    pids+=($!)
done

worst=0
while [ ${#pids[@]} -gt 0 ]; do
    code=0
    wait -n -p ended "${pids[@]}" || code=$?
    [ -n "${ended:-}" ] || continue # a signal came, and has been passed on
    for i in "${!pids[@]}"; do
        [ "${pids[i]}" != "$ended" ] || unset "pids[i]"
    done
    case $code in
        0) ;;
        75) worst=75 ;;
        *)
            echo "a process ended with exit code $code; the others are killed" >&2
            exit "$code"
            ;;
    esac
done
exit "$worst"
