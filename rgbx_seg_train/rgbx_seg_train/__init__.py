# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Offline side of rgbx_seg: model families, data, training, evaluation, export."""

import rgbx_seg_ros  # noqa: F401  # turns ONNX Runtime's telemetry off before anything loads it

__version__ = '0.1.0'
