# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node as it is, but for an engine that fails as a file says: run as a program by the tests.

The file `fault` in the bundle holds a moment (open, call or close) and what happens then: raise,
raise_on_white (only for an RGB image that begins with a white pixel), lose (what it runs on,
for good), or that it does not come back for a minute: sleep, busy (in Python) or hold (with the GIL
held). The file `stuck` appears when that begins.
"""

import ctypes
import sys
import time

import numpy as np

from rgbx_seg_ros import RgbxSegError, engine, node

LONG_S = 60


class FailingEngine:
    """The real engine and its faults."""

    def __init__(self, model: engine.Model, options: object) -> None:
        """Open the real one."""
        self._bundle, self._lost = model.bundle, False
        self._fail('open')
        self._engine = SOUND(model, options)
        self.info = self._engine.info

    def __call__(self, rgb: np.ndarray, aux: np.ndarray) -> object:
        """Run the real one."""
        self._fail('call', rgb[0, 0, 0].min() == 255)
        return self._engine(rgb, aux)

    def close(self) -> None:
        """Close the real one."""
        self._fail('close')
        self._engine.close()

    def is_lost(self) -> bool:
        """Return whether it lost what it runs on."""
        return self._lost

    def _fail(self, moment: str, white: bool = False) -> None:
        path = self._bundle / 'fault'
        when, _, fault = path.read_text().partition(' ') if path.exists() else ('', '', '')
        if when != moment:
            return
        if fault == 'raise' or (fault == 'raise_on_white' and white):
            raise MemoryError('the accelerator\nis out of memory')
        if fault == 'lose':
            self._lost = True
            raise RgbxSegError('the GPU has fallen off the bus.')
        if fault in ('sleep', 'busy', 'hold'):
            (self._bundle / 'stuck').touch()
            end = time.monotonic() + LONG_S
            while fault == 'busy' and time.monotonic() < end:
                pass
            {'sleep': time.sleep, 'hold': ctypes.PyDLL(None).sleep}.get(fault, bool)(LONG_S)


SOUND = engine.BACKENDS['onnxruntime']
engine.BACKENDS.update(onnxruntime=FailingEngine, openvino=FailingEngine)

if __name__ == '__main__':
    sys.exit(node.main())
