#!/usr/bin/env bash
# A real SLURM of two nodes on this machine trains through launch/slurm.sbatch: once undisturbed, once told to end by
# scancel --signal=TERM and then by scontrol requeue. It must come back by itself both times and end with the same bits.
# Beside it a stand-in runs into its time limit and comes back; another is ended by scancel, for good.
#
#     bash launch/test_slurm.sh
#
# Needs root, and installs Debian's slurmctld, slurmd, slurm-client and munge where they are missing; where that cannot
# be, it says so and counts as passed. All lives in a temporary folder, but for a line in /etc/hosts while it runs.
# VENV (.venv): the virtual environment that launch/test.sh makes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=$PWD/${VENV:-.venv}/bin/python
case ${VENV:-} in /*) PYTHON=$VENV/bin/python ;; esac
FLAGS=(--config=configs/digits.py:tiny --config.train_steps=240 --config.checkpoint.every=100 --config.report.every=20
    --config.report.samples_every=0 --config.eval.every=0 --config.report.tensorboard=False)

skip() { echo "test_slurm: skipped: $1"; exit 0; }
[ "$(id -u)" = 0 ] || skip "only root can install and start SLURM"
[ -w /etc/hosts ] || skip "/etc/hosts cannot be written, and the nodes need names"
[ -x "$PYTHON" ] || skip "there is no $PYTHON; run launch/test.sh first"

if ! command -v munged slurmctld slurmd srun sbatch >/dev/null; then
    command -v apt-get >/dev/null || skip "SLURM is not installed, and there is no apt-get"
    install=(apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge)
    export DEBIAN_FRONTEND=noninteractive
    (timeout 120 apt-get update -qq && timeout 300 "${install[@]}") >/dev/null 2>&1 || skip "apt-get cannot install slurmctld, slurmd and munge"
fi

# Set up, and take down whatever happens.

work=$(mktemp -d /tmp/test_slurm.XXXXXX)
mark="# test_slurm $$"
finish() {
    code=$?
    set +e
    if [ $code != 0 ]; then
        for log in "$work"/*.log; do echo "== $log"; tail -n 40 "$log"; done >&2
    fi
    scancel --quiet --user=root
    sleep 1
    for pidfile in "$work"/*.pid; do kill "$(cat "$pidfile")"; done 2>/dev/null
    grep -vF "$mark" /etc/hosts >"$work/hosts" && cat "$work/hosts" >/etc/hosts # it may be a mount: not mv
    sleep 1
    rm -rf "$work"
    exit $code
}
trap finish EXIT
trap 'exit 1' INT TERM

export SLURM_CONF=$work/slurm.conf JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=1 PYTHON
read -r -a ports < <("$PYTHON" -c '
import socket
sockets = [socket.socket() for _ in range(3)]
for s in sockets: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))')
host=$(hostname)
cat >"$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
SlurmdParameters=config_overrides
FirstJobId=$((1000 + RANDOM))
KillWait=60
MinJobAge=100000
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/%n
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/%n.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/%n.log
NodeName=djax1 NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[1]} CPUs=4
NodeName=djax2 NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[2]} CPUs=4
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
mkdir "$work"/{state,djax1,djax2}
chmod 755 "$work"
(umask 077 && head -c 1024 /dev/urandom >"$work/munge.key")
echo "127.0.0.1 djax1 djax2 $mark" >>/etc/hosts # by its name the other process finds the first one

await() { # SECONDS WHAT COMMAND…: until the command succeeds
    local until=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ $SECONDS -lt $until ] || { echo "test_slurm: $what did not happen" >&2; return 1; }
        sleep 1
    done
}
start() {
    munged --socket="$work/munge.socket" --key-file="$work/munge.key" --pid-file="$work/munged.pid" \
        --log-file="$work/munged.log" --seed-file="$work/munge.seed" &&
        slurmctld && slurmd -N djax1 && slurmd -N djax2
}
idle() { [ "$(sinfo -h -o '%D %t' 2>/dev/null)" = "2 idle" ]; }
works() {
    start && await 300 "a cluster of two nodes" idle &&
        [ "$(timeout 300 srun --nodes=2 printenv SLURM_PROCID | sort | paste -sd,)" = 0,1 ]
}
if ! works >"$work/start.log" 2>&1; then
    tail -n 20 "$work"/*.log >&2
    skip "SLURM does not work on this machine; its logs are above"
fi

# Train.

submit() { # NAME: prints the job's number
    sbatch --parsable --nodes=2 --cpus-per-task=1 --output="$work/$1.log" launch/slurm.sbatch train --workdir="$work/$1" "${FLAGS[@]}"
}
field() { scontrol show job "$1" | grep -oP "\b$2=\K\S+"; }
is() { [ "$(field "$1" "$2")" = "$3" ]; }
must() { # JOB STATE
    is "$1" JobState "$2" || { echo "test_slurm: job $1 is $(field "$1" JobState), not $2" >&2; return 1; }
}
trained() { grep -q " step: $2 of" "$work/$1.log" 2>/dev/null; }
ended() { [[ $(field "$1" JobState) =~ ^(COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL)$ ]]; }

cat >"$work/standin.py" <<'END'
import signal, sys, time

signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("listening", flush=True)
time.sleep(600)
END
stand_in() { # NAME OPTIONS…: prints the job's number
    sbatch --parsable --cpus-per-task=1 --output="$work/$1.log" "${@:2}" launch/slurm.sbatch "$work/standin.py"
}
listening() { grep -q listening "$work/$1.log" 2>/dev/null; }

begin=$SECONDS
limited=$(stand_in limited --time=2 --signal=TERM@100)
cancelled=$(stand_in cancelled)
job=$(submit undisturbed)
await 900 "the start of a stand-in" listening cancelled
scancel "$cancelled"
await 900 "the return of a job at its time limit" is "$limited" Restarts 1
scancel "$limited"
await 1800 "the end of the undisturbed job" ended "$job"
must "$job" COMPLETED
echo "test_slurm: an undisturbed job on two nodes, $((SECONDS - begin)) s; one at its time limit came back"

job=$(submit disturbed)
await 900 "step 60" trained disturbed 60
echo "test_slurm: scancel --signal=TERM"
scancel --signal=TERM "$job"
await 900 "the first return to the queue" is "$job" Restarts 1
await 900 "step 140" trained disturbed 140
echo "test_slurm: scontrol requeue"
scontrol requeue "$job"
await 900 "the second return to the queue" is "$job" Restarts 2
await 1800 "the end of the disturbed job" ended "$job"
must "$job" COMPLETED
must "$cancelled" CANCELLED # it has not come back
grep -E '[0-9] SIGTERM|resuming|goes back|step: 240 of' "$work/disturbed.log"

"$PYTHON" -m tests.same_state "$work/undisturbed" "$work/disturbed" | tee "$work/same"
grep -q "at step 240 are the same bits" "$work/same"
echo "test_slurm: passed in $((SECONDS - begin)) s"
