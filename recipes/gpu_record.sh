#!/usr/bin/env bash
# The figures of a machine with a CUDA GPU, in calls of at most ten minutes: recipes/gpu_record.sh test|bench|train [OUT]
#   test    the tests that need a GPU
#   bench   training and sampling speed of the 32 and 128 px presets, and of the published width at 256 px with recomputing
#   train   CIFAR-10 at the published width for nine minutes; each further call carries on (DATA: a zip, RUN: its folder)
# PYTHON: an interpreter with biggan in it. Not run yet: there was no GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:?test, bench or train} out=${2:-gpu-record} python=${PYTHON:-.venv/bin/python}
mkdir -p "$out"

bench() {
  echo "\$ biggan bench $*"
  "$python" -m biggan bench "$@" --rounds 3 --seconds 5
}

case $what in
  test) "$python" -m pytest -m gpu 2>&1 | tee "$out/tests.txt" ;;
  bench)
    {
      nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
      bench train cifar10-gpu --compare train.precision=fp32 train.memory-format=contiguous
      for preset in biggan-128 biggan-deep-128; do
        bench train "$preset" --train.batch 128 --train.micro-batch 128 --model.num-classes 1000
        bench sample "$preset" --batch 64 --model.num-classes 1000 --compile
      done
      bench train biggan-256 --train.batch 64 --train.micro-batch 64 --model.num-classes 1000 --train.activation-checkpointing
    } 2>&1 | tee "$out/bench.txt"
    ;;
  train)
    run=${RUN:-runs/cifar10-gpu}
    timeout --signal TERM 540 "$python" -m biggan train cifar10-gpu --data "${DATA:?a zip}" --run "$run" || [ $? -eq 124 ]
    cp "$run/config.json" "$out/"
    cp "$(ls "$run"/samples/*.png | tail -n 1)" "$out/" 2>/dev/null || true
    awk 'NR % 10 == 1' "$run/stats.jsonl" > "$out/stats.jsonl"
    ;;
  *) echo "test, bench or train" >&2; exit 2 ;;
esac
