# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_train` under FSDP on processors, for which accelerate's launcher wants GPUs."""

from __future__ import annotations

from accelerate import FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from rgbx_seg_train import run
from rgbx_seg_train.distributed import is_sharded, make_accelerator
from rgbx_seg_train.train import main


def sharded(settings):
    """Return an accelerator that takes the processes for GPUs."""
    accelerator = make_accelerator(settings)
    AcceleratorState._shared_state['distributed_type'] = DistributedType.FSDP
    AcceleratorState._shared_state['fsdp_plugin'] = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy='transformer_based_wrap',
        transformer_cls_names_to_wrap=['Block'])
    assert is_sharded(accelerator)
    return accelerator


if __name__ == '__main__':
    run.make_accelerator = sharded
    raise SystemExit(main())
