#!/bin/bash
# A run that collapses, and what helps: CIFAR-10 with 30 images of each class, 2,600 steps, some 15 minutes on one core.
#   TRAIN=zip:cifar10-train.zip TEST=zip:cifar10-test.zip JUDGE=module:judge.pt OUT=runs recipes/collapse.sh SETTING
# SETTING: plain, roll-back, r1-1 and r1-10 (gamma, every fourth step), r1-1-each (every step). The judge is any 10-class extractor of `biggan evaluate`.
set -euo pipefail
setting=${1:?plain, roll-back, r1-1, r1-10 or r1-1-each}
case $setting in
  plain) more=() ;;
  r1-1) more=(--regularization.discriminator.r1 1 --regularization.discriminator.r1-interval 4) ;;
  r1-10) more=(--regularization.discriminator.r1 10 --regularization.discriminator.r1-interval 4) ;;
  r1-1-each) more=(--regularization.discriminator.r1 1) ;;
  roll-back) more=(--monitor.on-alarm roll-back) ;;
  *) echo "unknown setting $setting" >&2; exit 2 ;;
esac
exec "${PYTHON:-python}" -m biggan train cifar10 --data "$TRAIN" --run "${OUT:-runs}/$setting" \
  --data.max-per-class 30 --data.no-flip --train.steps "${STEPS:-2600}" --train.minutes None --train.seed "${SEED:-0}" \
  --train.log-every 10 --train.sample-every 200 --train.checkpoint-every 50 \
  --monitor.every 50 --monitor.held-out "$TEST" \
  --eval.every 200 --eval.max-time-fraction 0.15 --eval.extractor "$JUDGE" --eval.recipe fid2k,accuracy2k,is2k "${more[@]}" "${@:2}"
