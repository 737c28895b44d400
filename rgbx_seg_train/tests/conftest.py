# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What holds for all tests of training."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _an_accelerator_of_its_own() -> Iterator[None]:
    """Forget accelerate's state after each test: a process has one, but runs differ in precision.

    Which tests share a process is a matter of chance where several processes run them.
    """
    yield
    if 'accelerate.state' in sys.modules:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(True)


@pytest.fixture(autouse=True)
def _a_table_of_operators_for_all_exports() -> None:
    """Let torch keep the table that it makes anew of onnxscript's sources for each export.

    That is half of the time of a small one.
    """
    if 'onnxscript' in sys.modules:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        make = ONNXRegistry.from_torchlib
        if not hasattr(make, 'cache_clear'):
            ONNXRegistry.from_torchlib = staticmethod(functools.cache(make))
