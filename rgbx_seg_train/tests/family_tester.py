# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The tester by its old name, until the last test has moved to `models/`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / 'models'))
from base import FamilyTester, Pinned, build, fake_pair  # noqa: E402, F401
