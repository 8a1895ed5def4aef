#!/usr/bin/env sh
# Makes the weights of the street model and of street_refined anew, from nothing: about 14 hours on 2 quiet processor cores.
#
#   models/street/make.sh CAMVID OUT      run in the repository's root, with semantic_depth on the PATH (./dev shell)
#
# CAMVID: the folder with train/{images,labels} and val/{images,labels}, 480x360, 11 classes. OUT: a folder to make.
# The schedules follow the clock (--minutes), so the number of steps depends on the machine. Killed, it goes on.
# SMALL=1 in the environment goes through all of it with a few drives, small frames and two seconds a training, to see that it works
# (in single precision, as half is slow on processors without it).
set -eu
[ $# -eq 2 ] || { sed -n 2,9p "$0"; exit 2; }
camvid=$1
out=$2

drives=700 held=val=24,test=64 size=1024x512
# minutes M [PHASES]: options of a training of M minutes; nothing where its configuration counts steps. PHASES, how many it has
# (1), matters in small only: each is to have small batches.
minutes() { [ -z "$1" ] || echo "--minutes $1"; }
if [ -n "${SMALL:-}" ]; then
  drives=4 held=val=2,test=2 size=256x128
  minutes() {
    echo "--minutes 0.03 --set watch.frames=2 --set phases.0.batch=2 --set precision=fp32"
    [ "${2:-1}" -eq 1 ] || echo "--set phases.1.batch=2"
  }
fi

# What is there already stays, as with --resume.
semantic_depth render --out "$out/street" --seed 1 --splits "train=$drives" --frames 2 --rate 0.3 --size $size --no-stereo --add
semantic_depth render --out "$out/street" --seed 1 --splits $held --frames 1 --rate 0.3 --size $size --no-stereo --add
semantic_depth train config/train/street.yaml --data "$out/street" --out "$out/first" $(minutes 130 2) --resume
semantic_depth train config/train/street_camvid.yaml --data "street=$out/street" --data "camvid=$camvid" \
  --init "$out/first/last.safetensors" --out "$out/second" $(minutes 100) --resume
semantic_depth train config/train/street_camvid_whole.yaml --data "street=$out/street" --data "camvid=$camvid" \
  --init "$out/second/last.safetensors" --out "$out/third" $(minutes 45) --resume
# On a GPU (--device cuda) seven minutes.
semantic_depth train config/train/street_camvid_gpu.yaml --data "street=$out/street" --data "camvid=$camvid" \
  --init "$out/third/last.safetensors" --out "$out/fourth" $(minutes "${FOURTH_MINUTES:-270}" 2) --resume
semantic_depth train config/train/street_refinement.yaml --data "$out/street" --init "$out/fourth/last.safetensors" \
  --out "$out/refinement" $(minutes 38) --resume
semantic_depth train config/train/street_joint.yaml --data "street=$out/street" --data "camvid=$camvid" \
  --init "$out/fourth/last.safetensors" --init "$out/refinement/last.safetensors" --out "$out/fifth" $(minutes 57) --resume
python3 scripts/average_weights.py "$out/fourth/last.safetensors" "$out/fifth/last.safetensors" "$out/mean.safetensors"
semantic_depth train config/train/street_refinement.yaml --set phases.0.max_learning_rate=1e-3 --set phases.0.warmup=0.1 \
  --data "$out/street" --init "$out/fifth/last.safetensors" --init "$out/mean.safetensors" --out "$out/behind" $(minutes 12) --resume
semantic_depth train config/train/street_joint_whole.yaml --data "street=$out/street" --data "camvid=$camvid" \
  --init "$out/mean.safetensors" --init "$out/behind/last.safetensors" --out "$out/sixth" $(minutes "") --resume
semantic_depth train config/train/street_joint_whole.yaml --set phases.0.steps=3900 --set heads.1.weight=1.5 --set seed=83 \
  --data "street=$out/street" --data "camvid=$camvid" --init "$out/sixth/last.safetensors" --out "$out/seventh" $(minutes "") --resume
# As they are released: models/street/weights.safetensors and models/street_refined/refinement.safetensors.
python3 scripts/split_refinement.py "$out/seventh/last.safetensors" "$out/weights.safetensors" "$out/refinement.safetensors"
semantic_depth export --weights "$out/weights.safetensors" --refinement none --focal-length 565.6 --size 512x256 --name street \
  --out "$out/model"
semantic_depth export --weights "$out/weights.safetensors" --refinement "$out/refinement.safetensors" --focal-length 565.6 \
  --size 768x384 --name street_refined --out "$out/refined"
semantic_depth evaluate --model "$out/model" --data "$out/street" --split test
semantic_depth evaluate --model "$out/refined" --data "$out/street" --split test
semantic_depth evaluate --model "$out/model" --data "$camvid" --split val --layout folder --mapping config/data/camvid.yaml
