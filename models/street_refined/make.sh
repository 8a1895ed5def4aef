#!/usr/bin/env sh
# Makes the refinement of the street model's depth anew, from the street weights: 38 minutes on 2 quiet processor cores.
#
#   models/street_refined/make.sh OUT      run in the repository's root, with semantic_depth on the PATH (./dev shell)
#
# OUT: a folder to make. The schedule follows the clock (--minutes), so the number of steps depends on the machine. Killed,
# it goes on.
set -eu
[ $# -eq 1 ] || { sed -n 2,7p "$0"; exit 2; }
out=$1

if [ ! -f "$out/rendered" ]; then
  semantic_depth render --out "$out/street" --seed 1 --splits train=700 --frames 2 --rate 0.3 --size 1024x512 --no-stereo --add
  semantic_depth render --out "$out/street" --seed 1 --splits val=24,test=64 --frames 1 --rate 0.3 --size 1024x512 --no-stereo --add
  touch "$out/rendered"
fi
semantic_depth train config/train/street_refinement.yaml --data "$out/street" --init models/street/weights.safetensors \
  --out "$out/run" --minutes "${MINUTES:-38}" --resume
semantic_depth export --weights models/street/weights.safetensors --refinement "$out/run/last.safetensors" --size 768x384 \
  --name street_refined --out "$out/model"
semantic_depth evaluate --model "$out/model" --data "$out/street" --split test
