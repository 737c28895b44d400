# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node as it is, but for an engine that takes its time: run as a program by the tests."""

import sys
import time

from rgbx_seg_ros import engine, node


class SlowEngine:
    """The real engine, after a sleep of as many seconds as the file `delay` in the bundle says."""

    def __init__(self, model: engine.Model, options: object) -> None:
        """Open the real one."""
        self._delay = model.bundle / 'delay'
        self._engine = FAST(model, options)
        self.info, self.close = self._engine.info, self._engine.close

    def __call__(self, rgb: object, aux: object) -> object:
        """Sleep, then run."""
        if self._delay.exists():
            time.sleep(float(self._delay.read_text() or 0))
        return self._engine(rgb, aux)


FAST = engine.BACKENDS['onnxruntime']
engine.BACKENDS.update(onnxruntime=SlowEngine, openvino=SlowEngine)

if __name__ == '__main__':
    sys.exit(node.main())
