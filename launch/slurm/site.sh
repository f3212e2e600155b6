# shellcheck shell=bash disable=SC2034
# What differs from cluster to cluster: sourced by submit_all.sh and, on the node, by every job. Another file than this
# one: export SPEAKERLM_SITE=FILE before submitting.

PYTHON=${PYTHON:-$PWD/.venv/bin/python} # jobs start in the folder that they were submitted from: the checkout

LOGS=logs # folder of the jobs' outputs

# Options of sbatch: partition, account, sizes. Those on the command line of sbatch win.
PACK_TASKS=16 # of the array, for each dataset
PACK_SBATCH=(--cpus-per-task=16 --mem=32G --time=24:00:00)
# At most data.micro_batches_per_step ranks, 4 in the recipes; on more, add it to the command: launch/recipes/README.md.
TRAIN_SBATCH=(--nodes=1 --ntasks-per-node=4 --gpus-per-node=4 --cpus-per-task=12 --time=24:00:00)
SCORE_SBATCH=(--gpus-per-node=1 --cpus-per-task=8 --time=12:00:00)

MAX_RESTARTS=200                     # of one training job; look at the log before you raise it
DECODE=(--modes "no,match,over")     # options of speakerlm-decode
NODECHECK=(--disk-gb 50 --skew 2.0)  # options of python -m pipeline.ranks.nodecheck

# Every job's environment. Credentials are not set here: boto3 finds them in ~/.aws or in the node's role.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
# export AWS_ENDPOINT_URL=https://s3.example.org
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0
