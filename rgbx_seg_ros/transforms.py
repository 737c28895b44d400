# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The static part of the tf tree, as /tf_static tells it: where one frame stands in another."""

from __future__ import annotations

from collections import deque

from numpy.typing import ArrayLike

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.camera import Transform


class Transforms:
    """Static transforms by frame. Not thread-safe: the thread that adds also looks up."""

    def __init__(self) -> None:
        """Begin with no frame."""
        self._parents: dict[str, str] = {}  # child -> parent
        self._edges: dict[str, dict[str, Transform]] = {}  # target -> source -> motion

    def add(self, parent: str, child: str, translation: ArrayLike, quaternion: ArrayLike) -> None:
        """Take one geometry_msgs/TransformStamped: the pose of `child` in `parent`.

        A child told again moves, to another parent too (as in tf2). `quaternion` is x, y, z, w.
        Raises RgbxSegError for a quaternion of length 0, numbers not finite and frames without
        or with the same name.
        """
        parent, child = _plain(parent), _plain(child)
        if not parent or not child or parent == child:
            raise RgbxSegError(f'a transform from frame "{parent}" to frame "{child}"; expected '
                               'two frames with different names; mend its publisher.')
        try:
            motion = Transform.from_quaternion(quaternion, translation)
        except RgbxSegError as error:
            raise RgbxSegError(f'the transform from {parent} to {child}: {error}') from None
        old = self._parents.get(child)
        if old is not None:
            self._edges[old].pop(child, None)
            self._edges[child].pop(old, None)
        self._parents[child] = parent
        self._edges.setdefault(parent, {})[child] = motion
        self._edges.setdefault(child, {})[parent] = motion.inverse()

    def lookup(self, target: str, source: str) -> Transform | None:
        """Return the motion of points in frame `source` into frame `target`; None if unknown."""
        target, source = _plain(target), _plain(source)
        if target not in self._edges or source not in self._edges:
            return None
        identity = Transform.from_quaternion((0, 0, 0, 1), (0, 0, 0))
        found = {target: identity}
        waiting = deque([target])
        while waiting and source not in found:
            frame = waiting.popleft()
            for neighbor, motion in self._edges[frame].items():
                if neighbor not in found:
                    found[neighbor] = found[frame] @ motion
                    waiting.append(neighbor)
        return found.get(source)


def _plain(frame: str) -> str:
    # tf wrote frames with a leading slash, tf2 refuses it; drivers of either age are in use.
    return frame.lstrip('/')
