#!/usr/bin/env bash
# A Slurm cluster of this machine alone, to try `--launcher slurm` on: controller and one node on 127.0.0.1, everything in
# one folder. Needs root and the packages slurmctld, slurmd, slurm-client and munge (Debian: apt-get install ...).
#   bash scripts/slurm_loopback.sh start FOLDER      then: export SLURM_CONF=FOLDER/slurm.conf
#   bash scripts/slurm_loopback.sh stop FOLDER
# PORT=N takes N for the controller and N+1 for the node (default: 16817).
# No accounting and no control groups: limits of memory are not enforced, and `sacct` knows nothing.
set -euo pipefail

usage() {
    sed -n '2,$ {/^#/!q; s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
}

fail() {
    echo "error: $*" >&2
    exit 2
}

start() {
    for program in munged slurmctld slurmd sinfo; do
        command -v "$program" >/dev/null || fail "no $program: apt-get install slurmctld slurmd slurm-client munge"
    done
    [[ $EUID -eq 0 ]] || fail "the node's daemon needs root"
    [[ ! -e $folder/slurm.conf ]] || fail "$folder holds a cluster: stop it first"
    local port=${PORT:-16817} node
    node=$(hostname -s)
    mkdir -p "$folder/state" "$folder/spool" "$folder/log"
    chmod 755 "$folder" "$folder/log"
    (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
    cat >"$folder/slurm.conf" <<CONF
ClusterName=loopback
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=$port
SlurmdPort=$((port + 1))
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1
KillWait=2
ReturnToService=2
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc)
PartitionName=loopback Nodes=$node Default=YES MaxTime=INFINITE State=UP
CONF
    export SLURM_CONF=$folder/slurm.conf
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --seed-file="$folder/munge.seed" \
        --pid-file="$folder/munged.pid" --log-file="$folder/log/munged.log"
    slurmctld -f "$SLURM_CONF"
    slurmd -f "$SLURM_CONF"
    for _ in {1..60}; do
        if [[ $(sinfo --noheader --format=%T 2>/dev/null) == idle ]]; then
            echo "export SLURM_CONF=$SLURM_CONF"
            return
        fi
        sleep 0.5
    done
    tail -n 5 "$folder/log/slurmctld.log" "$folder/log/slurmd.log" >&2
    stop
    fail "the node does not come up; the last lines of the logs are above"
}

stop() {
    if [[ -e $folder/slurmctld.pid ]]; then
        SLURM_CONF=$folder/slurm.conf timeout 20 scancel --user=root 2>/dev/null || true
    fi
    local daemon pid
    for daemon in slurmd slurmctld munged; do
        pid=$(cat "$folder/$daemon.pid" 2>/dev/null) || continue
        kill "$pid" 2>/dev/null || continue
        for _ in {1..60}; do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.5
        done
        kill -9 "$pid" 2>/dev/null || true
    done
    rm -f "$folder/slurm.conf"
}

case ${1:-} in
    start | stop)
        [[ $# -eq 2 ]] || fail "one folder is needed: bash scripts/slurm_loopback.sh $1 FOLDER"
        mkdir -p "$2"
        folder=$(cd "$2" && pwd)
        "$1"
        ;;
    -h | --help) usage ;;
    *) fail "start or stop? (--help says more)" ;;
esac
