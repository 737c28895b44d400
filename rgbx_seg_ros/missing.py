# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Says in one sentence which library a command lacks, for it is imported before the command runs.

On a robot OpenCV comes from apt, ROS 2 is sourced, and rosbags is in no apt package: each can be
missing where the wheel or the ROS package was installed without complaint.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType

ROS = 'expected in a sourced ROS 2; source its setup.bash, or that of the workspace, first.'
# Module -> what is said of it.
SENTENCES = {
    'cv2': "OpenCV is missing, expected from `apt install python3-opencv` or, without ROS, from "
           "`pip install 'rgbx_seg_ros[opencv]'`.",
    'numpy': 'NumPy is missing; run `apt install python3-numpy` or `pip install numpy`.',
    'rclpy': f'rclpy is missing, {ROS}',
    'rgbx_seg': 'the messages of rgbx_seg are missing, expected in a workspace that `colcon build` '
                'has built; source its install/setup.bash first.',
    'rosbags': 'the library rosbags is missing; run `pip install rosbags`.',
    'yaml': 'PyYAML is missing; run `apt install python3-yaml` or `pip install PyYAML`.',
}


def explain_for_commands() -> None:
    """Let our own commands, and no program that only uses this package, end with a sentence."""
    if Path(sys.argv[0] if sys.argv else '').name.startswith(('rgbx_', 'segment_node')):
        sys.excepthook = explain


def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Tell what ends the program, as sys.excepthook: what is no missing library, by a traceback."""
    module = error.name if isinstance(error, ModuleNotFoundError) else None
    sentence = SENTENCES.get((module or '').partition('.')[0])
    if sentence:
        print(f'{Path(sys.argv[0]).name}: error: {sentence}', file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
