#!/bin/bash
# An experiment on a Slurm cluster, Ray on every node of the allocation:
#   sbatch deploy/ray/slurm.sh experiments/fedavg_digits.toml [--set a.b=c ...]
# fedcosim is installed in $FEDCOSIM_ENV on every node; the folder it is submitted from is shared by all of them.
#SBATCH --job-name=fedcosim
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=04:00:00
set -euo pipefail

export PATH="${FEDCOSIM_ENV:-$SLURM_SUBMIT_DIR/.venv}/bin:$PATH"
export OMP_NUM_THREADS=1 RAY_USAGE_STATS_ENABLED=0
export FEDCOSIM_CACHE="${FEDCOSIM_CACHE:-$SLURM_SUBMIT_DIR/cache}"
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)  # reads all: a pipe that breaks would end the script
address=$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 10000))

# When the time is over the run ends where it is; `fedcosim resume` goes on after its last complete round.
srun --kill-on-bad-exit=1 ray symmetric-run --address "$address:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "$SLURM_CPUS_PER_TASK" -- fedcosim run "$@" --out "$SLURM_SUBMIT_DIR/runs" --set engine.address=auto
