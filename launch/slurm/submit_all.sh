#!/usr/bin/env bash
# Submit one chain of jobs: an array that packs each dataset, the stages in order, then scoring.
#
#     launch/slurm/submit_all.sh CORPORA RECIPES OUT TEST[,TEST …] [key=value …]
#     launch/slurm/submit_all.sh corpora.txt launch/recipes/speakerlm-7b scores s3://bucket/alimeeting-test root=s3://bucket
#
# CORPORA has one line per dataset: MANIFEST DATASET [option of speakerlm-shards pack …]; - packs nothing. STAGES="3 4"
# in the environment trains these only. A job starts when the one before it has succeeded; if one fails, the jobs after it
# are cancelled. Run it again after a failure: finished work is skipped.
set -euo pipefail
# shellcheck source=launch/slurm/site.sh
source "${SPEAKERLM_SITE:-launch/slurm/site.sh}"

[ $# -ge 4 ] || { sed -n '4,5s/^# *//p' "$0" >&2; exit 2; }
corpora=$1 recipes=$2 out=$3
IFS=, read -ra tests <<<"$4"
shift 4
here=launch/slurm
[ "$corpora" = - ] || [ -r "$corpora" ] || { echo "$corpora cannot be read: a file with a line for each dataset, or -" >&2; exit 2; }
mkdir -p "$LOGS"

submit() { # submit AFTER OPTION… : prints the job id
  local after=$1
  shift
  sbatch --parsable ${after:+--dependency=afterok:$after} --kill-on-invalid-dep=yes --output="$LOGS/%x-%j.out" "$@" | cut -d ';' -f 1
}

after=""
while [ "$corpora" != - ] && { read -ra line || [ ${#line[@]} -gt 0 ]; }; do
  case ${line[0]-} in "" | "#"*) continue ;; esac
  job=$(submit "" "${PACK_SBATCH[@]}" --output="$LOGS/%x-%A_%a.out" --array="0-$((PACK_TASKS - 1))" $here/pack.sbatch "${line[@]}")
  echo "pack ${line[1]}: job $job"
  after=${after:+$after:}$job
done < <([ "$corpora" = - ] || cat "$corpora")

for stage in ${STAGES:-1 2 3 4}; do
  after=$(submit "$after" "${TRAIN_SBATCH[@]}" --job-name="speakerlm-stage$stage" \
    $here/train.sbatch "$recipes/stage$stage.yaml" "$@")
  echo "stage $stage: job $after"
  run=$("$PYTHON" launch/train.py "$recipes/stage$stage.yaml" "$@" --dry-run | sed -n 's/^output: //p')
done

job=$(submit "$after" "${SCORE_SBATCH[@]}" $here/score.sbatch "$run" "$out" "${tests[@]}")
echo "score $run: job $job"
