#!/usr/bin/env bash
# One experiment on nodes of a Slurm cluster: Ray is started on them for this job, with a token of its own, and ended.
#
# Command:  sbatch --nodes=4 cluster/manifests/slurm.sh configs/smoke.yaml store=/shared/corgi
# Before:   `make setup` in the folder that sbatch is called in, which all nodes see, as they see the store
# A job that Slurm ends (a time limit, a preemption) gets SIGTERM two minutes before, and goes on when it is queued again.
#SBATCH --job-name=corgi
#SBATCH --nodes=2
#SBATCH --exclusive
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=corgi-%j.log
set -euo pipefail

cd "$SLURM_SUBMIT_DIR"
export PATH="$PWD/.venv/bin:$PATH"

# In the environment, which only this user can read, and on no command line, which all users of a node can.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}" # srun does not inherit it

nodes=$SLURM_JOB_NUM_NODES
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
other=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 2p)
# The address that other nodes reach this one by: a host's own name may stand for loopback, or for another network.
if [ -n "$other" ]; then
    address=$(python -c 'import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 9)); print(s.getsockname()[0])' "$other")
else
    address=127.0.0.1
fi
port=$((20000 + SLURM_JOB_ID % 10000))
folder=/tmp/ray-$SLURM_JOB_ID # short: Ray's sockets lie below it
common=(--block --num-cpus="$SRUN_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}"
    --min-worker-port=0 --max-worker-port=0 --disable-usage-stats)

started=()
# shellcheck disable=SC2329 # called by the trap
finish() { # ends what this script started, by its ids, and nothing else
    trap - EXIT
    for id in "${started[@]}"; do kill -TERM "$id" 2>/dev/null || true; done
    for id in "${started[@]}"; do wait "$id" 2>/dev/null || true; done
}
trap finish EXIT

srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --node-ip-address="$address" --port="$port" --include-dashboard=false \
    --temp-dir="$folder" "${common[@]}" &
started+=($!)
export RAY_ADDRESS="$address:$port"
python -m cluster.nodes 1
if [ "$nodes" -gt 1 ]; then
    srun --nodes=$((nodes - 1)) --ntasks=$((nodes - 1)) --exclude="$head" \
        ray start --address="$address:$port" "${common[@]}" &
    started+=($!)
    python -m cluster.nodes "$nodes" # else a stage that asks for all of them would be refused
fi

corgi run "$@" &
run=$!
started=("$run" "${started[@]}") # the run first, so that it ends before the nodes under it
trap 'kill -TERM "$run" 2>/dev/null || true' TERM INT
status=0
wait "$run" || status=$?
while kill -0 "$run" 2>/dev/null; do # a signal ends `wait`, and not the run, which writes its last checkpoint
    status=0
    wait "$run" || status=$?
done
exit "$status"
