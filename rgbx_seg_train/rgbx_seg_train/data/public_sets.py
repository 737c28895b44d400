# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The table of public data sets: kind of source -> class that reads it."""

from __future__ import annotations

from rgbx_seg_train.data.public import PublicSet

PUBLIC_SETS: dict[str, type[PublicSet]] = {}
