#!/usr/bin/env bash
# Everything that docs/performance.md lists for a GPU, in one go:
#
#   python -m simclr_jax.prepare --config=configs/cifar10.py --out=CIFAR10
#   bash benchmarks/gpu.sh CIFAR10 docs/results/NAME_OF_THE_CARD
#
# The first command needs TensorFlow Datasets and can run elsewhere; the second
# needs requirements-no-tf.txt with jax[cuda12] or jax[cuda13], and torch for
# the peer rows. Each benchmark writes a JSON file; one that fails is named at
# the end, and the others still run.
set -uo pipefail
data=${1:?first argument: folder that simclr_jax.prepare wrote}
out=${2:?second argument: folder of the results}
# Before cd: relative paths are those of the caller.
data=$(realpath -m -- "$data") && out=$(realpath -m -- "$out") || exit
cd "$(dirname "$0")/.." || exit
mkdir -p "$out"
failed=()

measure() {
  local name=$1
  shift
  echo "== $name"
  python -m "benchmarks.$name" "$@" || failed+=("$name $*")
}

# Pixels and views on the GPU, no TensorFlow.
cifar=(
  --config.data.source=parquet --config.data.name= "--config.data.path=$data"
  --config.data.loader=opencv --config.data.augment_on=device
  --config.model.compute_dtype=bfloat16 "--config.monitor.knn_every=10 epochs"
)

measure step "--out=$out/step.json"
measure augment --images=4096,256 --step_images=512,64 \
  "--out=$out/augment.json"
measure loss "--out=$out/loss.json"
for seed in 0 1 2; do
  measure train --config=configs/cifar10.py:dkobak_100 "${cifar[@]}" \
    "--config.seed=$seed" "--workdir=runs/dkobak_100-$seed" \
    "--out=$out/dkobak_100-$seed.json"
done

if ((${#failed[@]})); then
  printf 'failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
