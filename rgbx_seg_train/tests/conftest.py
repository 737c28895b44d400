# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What holds for all tests of training."""

from __future__ import annotations

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
