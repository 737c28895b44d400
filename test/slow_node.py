# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node as it is, but for an engine that takes its time: run as a program by the tests.

Files in the bundle say how. `opening`: while it is there, the engine is being opened, and tells its
text each time that it is another one. `refusal`: then it cannot be opened, for the reason in it.
`delay`: seconds that a call sleeps.
"""

import sys
import time
from pathlib import Path

from rgbx_seg_ros import RgbxSegError, engine, node


class SlowEngine:
    """The real engine, late."""

    def __init__(self, model: engine.Model, options: engine.Options) -> None:
        """Open the real one, when it is time."""
        told = ''
        while (text := _read(model.bundle / 'opening')) is not None:
            if text not in ('', told):  # empty while another one is being written
                options.tell(text)
                told = text
            time.sleep(0.02)
        if reason := _read(model.bundle / 'refusal'):
            raise RgbxSegError(reason)
        self._delay = model.bundle / 'delay'
        self._engine = FAST(model, options)
        self.info, self.close = self._engine.info, self._engine.close
        self.set_classes = self._engine.set_classes

    def __call__(self, rgb: object, aux: object) -> object:
        """Sleep, then run."""
        if self._delay.exists():
            time.sleep(float(self._delay.read_text() or 0))
        return self._engine(rgb, aux)


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


FAST = engine.BACKENDS['onnxruntime']
engine.BACKENDS.update(onnxruntime=SlowEngine, openvino=SlowEngine)

if __name__ == '__main__':
    sys.exit(node.main())
