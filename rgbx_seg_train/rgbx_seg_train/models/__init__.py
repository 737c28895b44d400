# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The table of model families: what `family` in a config or a manifest may name.

A model is built by `Family.build(config, n_classes, modalities)` and offers

- `forward(rgb, aux, modality, stride=1)` -> logits (B, n_classes, H/stride, W/stride) of rgb
  (B, 3, H, W), ImageNet-normalized, aux (B, 3, H, W) in [0, 1], and B names or ids of modalities,
- `merge(modality)` -> a module in eval mode, `forward(rgb, aux)`, for one modality: what is
  exported; if its `scene_width` is above 0, its embeddings of the scene can be computed apart,
- `COMPONENTS`: (name, pattern of parameter names), which tell every parameter's component,
- `set_gradient_checkpointing(on)`: spend time to spare memory in training.

Some offer more:

- `sees_target = True`: in training it is called with `target=`, the ids int64 (B, H/stride,
  W/stride) with 255 for unlabeled, and then returns `family.Outputs`; `loss_weights` has the weight
  of each of its further losses by name,
- `remarks()`: lines that a run tells of a new model, such as what it was not given,
- `read_classes(names, texts)`: a new model is told the names of its classes and, if it has
  `reads_texts = True`, one or more sentences for each of them (`prompts.class_texts`); what it
  makes of them is in its state_dict, in buffers that the module which has them names in
  `of_any_size` if their sizes depend on the texts,
- `set_classes(embeddings)`: segment from now on into the classes of these rows (N, D); its merged
  form has `text_width` D and `forward(rgb, aux, classes=rows)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.models import lmseg, master, sartm, segrgbx, shifnet
from rgbx_seg_train.models.family import NONE, Family
from rgbx_seg_train.models.options import override_fields

FAMILIES: dict[str, Family] = {
    'segrgbx': Family(segrgbx.SegRGBXConfig, segrgbx.PRESETS, segrgbx.SegRGBX, segrgbx.PARTS,
                      segrgbx.PRETRAINED, segrgbx.PUBLISHED, size=(512, 512), n_classes=70,
                      attention_counted=True, features='fuse.2'),
    'shifnet': Family(shifnet.SHIFNetConfig, shifnet.PRESETS, shifnet.SHIFNet, shifnet.PARTS,
                      shifnet.PRETRAINED, shifnet.PUBLISHED, size=(480, 640), n_classes=9,
                      features='fusion.2'),
    'sartm': Family(sartm.SARTMConfig, sartm.PRESETS, sartm.SARTM, sartm.PARTS,
                    sartm.PRETRAINED, sartm.PUBLISHED, size=(1280, 1280), n_classes=5,
                    modalities=('thermal',), features='common'),
    'master': Family(master.MASTERConfig, master.PRESETS, master.MASTER, master.PARTS,
                     master.PRETRAINED, master.PUBLISHED, size=(480, 640), n_classes=9,
                     modalities=('thermal',), features='to_decoder.0'),
    'lmseg': Family(lmseg.LMSegConfig, lmseg.PRESETS, lmseg.LMSeg, lmseg.PARTS,
                    lmseg.PRETRAINED, lmseg.PUBLISHED, size=(384, 384), n_classes=171,
                    modalities=('thermal',), features='fusion'),
}


def find_family(name: str) -> Family:
    """Return a family by name; RgbxSegError lists the valid ones."""
    if name not in FAMILIES:
        raise RgbxSegError(
            f'model family: found {name!r}, expected one of {", ".join(FAMILIES)}; '
            'correct the name.'
        )
    return FAMILIES[name]


def find_config(family: str, preset: str = 'full', options: Mapping[str, Any] = NONE) -> Any:
    """Return the config of a family's preset with some fields changed; RgbxSegError says which.

    `options` is nested as the fields are: {'dsrm': {'structure': 'a'}}.
    """
    presets = find_family(family).presets
    if preset not in presets:
        raise RgbxSegError(
            f'preset of {family}: found {preset!r}, expected one of {", ".join(presets)}; '
            'correct the name.'
        )
    return override_fields(presets[preset], options) if options else presets[preset]
