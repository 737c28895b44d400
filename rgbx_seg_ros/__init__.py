# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Runtime of rgbx_seg: pairs an RGB with an aux camera, segments the pairs, publishes masks."""

import os

from rgbx_seg_ros.missing import explain_for_commands

__version__ = '0.1.0'

# Before ONNX Runtime is loaded: its official builds tell Microsoft of their use otherwise, and
# leave an id in the user's home.
os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
explain_for_commands()


class RgbxSegError(Exception):
    """One sentence for the user: the thing, what was found, what was expected, the remedy."""
