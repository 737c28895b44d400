# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle's checkpoint run by torch, for GPUs that no other library serves.

The engine itself belongs to the training package, which is imported here, at its use, alone.
"""

from __future__ import annotations

from pathlib import Path

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import BackendMissing, BackendUnavailable, Engine, Model, Options
from rgbx_seg_ros.manifest import CHECKPOINT_FILE, Manifest, check_checkpoint, load_bundle


def open_torch(model: Model, options: Options) -> Engine:
    """Return the engine of a bundle with a checkpoint.

    Raises:
        BackendMissing: rgbx_seg_train or torch is not installed, or the bundle has no checkpoint.
        BackendUnavailable: torch has no use for the GPU.
        RgbxSegError: the bundle has a damaged checkpoint, or another's.

    """
    if not model.manifest.checkpoint_sha256:
        raise BackendMissing(f'bundle {model.bundle}: it holds no {CHECKPOINT_FILE}; expected one '
                             'for backend torch: export the bundle with export.checkpoint=true.')
    checkpoint = check_checkpoint(model.bundle, model.manifest)
    try:
        from rgbx_seg_train.torch_engine import open_checkpoint
    except ImportError as error:
        raise BackendMissing(f'torch cannot be used ({error}); install rgbx_seg_train, or '
                                 'choose another backend.') from None
    engine: Engine = open_checkpoint(checkpoint, model, options)
    return engine


def open_eager(checkpoint: Path, bundle: Path) -> tuple[Engine, Manifest]:
    """Return a checkpoint in eager float32, on the GPU if there is one, and the manifest.

    It is what a bundle's engines are compared with. The checkpoint need not be the bundle's own,
    but must be of its family, size and number of classes.

    Raises:
        BackendUnavailable: rgbx_seg_train or torch is not installed.
        RgbxSegError: the checkpoint cannot be read or does not fit the bundle.

    """
    try:
        from rgbx_seg_train import torch_engine
    except ImportError as error:
        raise BackendUnavailable(f'torch cannot be used ({error}); install rgbx_seg_train, or '
                                 'choose another backend.') from None
    expected = load_bundle(bundle)
    engine, found = torch_engine.open_eager(checkpoint)
    for name in ('family', 'height', 'width', 'n_classes'):
        own, due = getattr(found, name), getattr(expected, name)
        if own != due:
            raise RgbxSegError(f'{checkpoint}: {name} is {own}; the bundle expects {due}: take '
                               'the checkpoint that it was exported from, or one like it.')
    eager: Engine = engine
    return eager, expected
