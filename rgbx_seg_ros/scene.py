# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a camera pair remembers of its scene: embeddings of one frame that serve the next ones too.

An embedding tells of the place as a whole and changes slower than frames come, so the graph that
makes it need not run on each of them. While it is kept, it costs nothing.
"""

from __future__ import annotations

import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import Scene
from rgbx_seg_ros.manifest import MAX_SCENE_EVERY

MAX_GAP_NS = 1_000_000_000  # after this long without a frame the robot may be somewhere else


class SceneMemory:
    """Holds the embeddings of one camera pair for `every` frames. Not thread-safe.

    Where an engine embeds beside the pairs, those that come until it is done keep the
    old embeddings for a little longer: `outlived`, `begin` and `keep_late`.
    """

    def __init__(self, every: int) -> None:
        """Start with nothing kept; `every` 1 keeps nothing ever, and may be set anew later."""
        if not 1 <= every <= MAX_SCENE_EVERY:
            raise RgbxSegError(f'scene.every is {every}; expected 1..{MAX_SCENE_EVERY} frames.')
        self.every = every
        self._served = 0  # frames that what is kept was used for; 0: nothing is kept
        self._stamp_ns = 0
        self._kept: Scene | None = None
        self._epoch = 0  # how often everything was forgotten
        self._waited = 0  # frames since the embedding that is being made began

    def recall(self, stamp_ns: int) -> Scene | None:
        """Return the scene for the frame of this stamp, or None if the frame must be embedded.

        It must if `every` frames were served, after `reset`, and after a stamp that goes back or
        more than 1 s ahead: a bag that begins anew, a robot that was paused.
        """
        gap, self._stamp_ns = stamp_ns - self._stamp_ns, stamp_ns
        if not 0 <= gap <= MAX_GAP_NS:
            self.reset()
        if not 0 < self._served < self.every:  # also if embedding failed: this frame tries again
            return None
        self._served += 1
        return self._kept

    def keep(self, scene: Scene) -> Scene:
        """Copy the scene of the frame that `recall` was last asked for; return the copy."""
        shapes = [array.shape for array in scene]
        if self._kept is None or [array.shape for array in self._kept] != shapes:
            self._kept = tuple(np.empty_like(array) for array in scene)
        for own, given in zip(self._kept, scene, strict=True):
            np.copyto(own, given)
        self._served = 1
        return self._kept

    def outlived(self) -> Scene | None:
        """Return the scene that `recall` withholds for its age alone; None where every is 1."""
        if self._served == 0 or self.every == 1:
            return None
        self._waited += 1
        return self._kept

    def begin(self) -> int:
        """Note that the present frame is being embedded; return what `keep_late` wants of it."""
        self._waited = 1
        return self._epoch

    def keep_late(self, scene: Scene, epoch: int) -> None:
        """Copy the scene of the frame at which `begin` returned `epoch`, unless it has passed."""
        if epoch == self._epoch and self._served:
            self.keep(scene)
            self._served = self._waited

    def reset(self) -> None:
        """Forget what is kept: the next frame is embedded."""
        self._served = 0
        self._epoch += 1
