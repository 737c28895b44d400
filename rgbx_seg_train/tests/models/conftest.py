# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Lets pytest explain the assertions of the shared tester as it does those of a test file."""

import pytest

pytest.register_assert_rewrite('base')
