# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle's checkpoint run by torch, for GPUs that no other library serves.

The engine itself belongs to the training package, which is imported here, at its use, alone.
"""

from __future__ import annotations

from rgbx_seg_ros.engine import BackendUnavailable, Engine, Model
from rgbx_seg_ros.manifest import check_checkpoint


def open_torch(model: Model) -> Engine:
    """Return the engine of a bundle with a checkpoint.

    Raises:
        BackendUnavailable: rgbx_seg_train or torch is not installed.
        RgbxSegError: the bundle has no checkpoint, or a damaged one.

    """
    checkpoint = check_checkpoint(model.bundle, model.manifest)
    try:
        from rgbx_seg_train.torch_engine import open_checkpoint
    except ImportError as error:
        raise BackendUnavailable(f'torch cannot be used ({error}); install rgbx_seg_train, or '
                                 'choose another backend.') from None
    engine: Engine = open_checkpoint(checkpoint, model)
    return engine
