#!/bin/bash
# Learning from a few labels: MNIST as in table 1 of Salimans et al. 2016, one run, resumable; and CIFAR-10, as far as it goes, by
# feature matching, by the labels alone, and by minibatch discrimination.
#   TRAIN=zip:mnist-28.zip TEST=zip:mnist-28-test.zip OUT=runs recipes/few_labels.sh mnist LABELS_PER_CLASS SEED
#   TRAIN=zip:cifar10-train.zip TEST=zip:cifar10-test.zip OUT=runs recipes/few_labels.sh WHAT MINUTES SEED
# WHAT: cifar10, cifar10-labels-alone or cifar10-minibatch.
# The seed chooses the labels too. `python recipes/few_labels_table.py OUT/*` tells the errors.
set -euo pipefail
what=${1:?mnist, cifar10, cifar10-labels-alone or cifar10-minibatch} number=${2:?labels per class, or minutes} seed=${3:?a seed}
common=(--data "$TRAIN" --classify.test-data "$TEST" --train.seed "$seed" --data.label-seed "$seed")
run() { exec "${PYTHON:-python}" -m biggan train "$1" --run "${OUT:-runs}/$what-$number-$seed" "${common[@]}" "${@:2}"; }
minutes=(--train.minutes "$number" --train.log-every 20 --train.sample-every 100 --classify.every 100)
case $what in
  mnist) run improved-mnist --data.labels-per-class "$number" "${@:4}" ;;
  cifar10) run improved-cifar10 "${minutes[@]}" "${@:4}" ;;
  cifar10-labels-alone) run improved-cifar10 "${minutes[@]}" --objective.unsupervised-weight 0 --train.generator-lr 0 "${@:4}" ;;
  cifar10-minibatch) run improved-cifar10-minibatch "${minutes[@]}" "${@:4}" ;;
  *) echo "unknown: $what" >&2; exit 2 ;;
esac
