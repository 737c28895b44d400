#!/usr/bin/env bash
# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
# Makes sample/bundle and sample/bag anew: `make sample`. Training takes both cores for its time.
set -eu
cd "$(dirname "$0")/.."

configs=rgbx_seg_train/configs
model=runs/segrgbx_tiny_synthetic
rgb_only=runs/segrgbx_tiny_synthetic_rgb_only

# The model, and the same one without thermal to compare it with: one core each, side by side.
rgbx_train $configs/segrgbx_tiny_synthetic.yaml --overwrite train.threads=1 &
rgbx_train $configs/segrgbx_tiny_synthetic_rgb_only.yaml --overwrite train.threads=1
wait $!

# Scores on 200 scenes that neither has seen, at camera size; then the bundle.
rgbx_evaluate $model/best.safetensors --out $model/scores.json
rgbx_evaluate $rgb_only/best.safetensors --out $rgb_only/scores.json
rgbx_export $model/best.safetensors sample/bundle \
    --scores $model/scores.json --scores rgb_only=$rgb_only/scores.json

# Six clips of eight steps, three by day and three by night, as two free-running cameras saw them.
rm -rf runs/sample_stills
rgbx_synthesize runs/sample_stills --seeds 3000001:3000007 --steps 8 --dt 0.1 --aux-scale 0.5
rgbx_make_bag runs/sample_stills sample/bag --force --compressed --jpeg-quality 75 \
    --rgb-rate 30 --aux-rate 10 --aux-offset 0.013 --jitter 0.002 --drop 0.03 \
    --latency-rgb 0.03 --latency-aux 0.05 --seed 7
