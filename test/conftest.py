# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What all tests here share: hypothesis draws anew on a developer's machine, but not in CI."""

import os

from hypothesis import settings

settings.register_profile('ci', derandomize=True)
if os.environ.get('CI'):
    settings.load_profile('ci')
