#!/usr/bin/env bash
# A TPU slice of Google Cloud, of any number of hosts: create it, run a command on all of them, stop it, delete it.
#
#     export NAME=digits ZONE=us-central2-b TYPE=v4-32 VERSION=tpu-ubuntu2204-base
#     bash launch/tpu_pod.sh create                       # the slice, this repository on every host, and its packages
#     bash launch/tpu_pod.sh shell 'sudo mkdir -p /runs && sudo mount -t nfs HOST:/SHARE /runs'
#     bash launch/tpu_pod.sh run train --config=configs/digits.py --workdir=/runs/digits
#     bash launch/tpu_pod.sh stop                         # SIGTERM: saved, exit code 75; the same run goes on with it
#     bash launch/tpu_pod.sh delete
#
# --dry-run before the word prints the gcloud commands instead. gcloud must be logged in and know the project. The hosts
# share no disk: the workdir has to be on one that all mount, such as Filestore. The processes find each other by the
# metadata of the slice. SPOT=1 asks for a cheaper slice that may be taken away; then delete, create, mount and run again,
# and training goes on from the last checkpoint.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

dry=
if [ "${1:-}" = --dry-run ]; then dry=1 && shift; fi
[ $# -gt 0 ] || usage
word=$1
shift
: "${NAME:?say NAME=…, a name for the slice}" "${ZONE:?say ZONE=…, such as us-central2-b}"

tpu() { # VERB ARGUMENTS…
    local command=(gcloud compute tpus tpu-vm "$1" "${@:2}" "--zone=$ZONE")
    if [ -n "$dry" ]; then
        printf '%q ' "${command[@]}"
        echo
    else
        "${command[@]}"
    fi
}
install='mkdir -p diffusion_jax && tar -xf diffusion_jax.tar -C diffusion_jax && cd diffusion_jax'
install+=' && sudo apt-get update -qq && sudo apt-get install -y -qq python3.11-venv' # Ubuntu 22.04 comes with 3.10
install+=" && python3.11 -m venv .venv && .venv/bin/pip install --quiet --editable '.[tpu]'"
everywhere() { tpu ssh "$NAME" --worker=all --command="$1"; }

case $word in
    create)
        : "${TYPE:?say TYPE=…, such as v4-32}" "${VERSION:?say VERSION=…, such as tpu-ubuntu2204-base}"
        tpu create "$NAME" "--accelerator-type=$TYPE" "--version=$VERSION" ${SPOT:+--spot}
        code=$(mktemp -d)
        trap 'rm -rf "$code"' EXIT
        git archive --output="$code/diffusion_jax.tar" HEAD # what is committed
        tpu scp "$code/diffusion_jax.tar" "$NAME:" --worker=all
        everywhere "$install"
        ;;
    run)
        [ $# -gt 0 ] || usage
        everywhere "cd diffusion_jax && .venv/bin/python -m diffusion_jax.main $(printf '%q ' "$@")"
        ;;
    shell) everywhere "$*" ;;
    stop) everywhere 'pkill -TERM -f "[d]iffusion_jax.main"' ;;
    delete) tpu delete "$NAME" --quiet ;;
    *) usage ;;
esac
