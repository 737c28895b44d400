# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A bag evaluation as a recording for the Rerun viewer: images, masks by class, numbers over time.

All of it is on two timelines, `bag_time` (the stamps of the masks) and `pair` (their numbers). The
library is imported at use; writing a file, it opens no connection and leaves nothing at home.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.eval_frames import BagPair, EvalFrame, Image, LaneResult
from rgbx_seg_ros.eval_result import FrameRecord
from rgbx_seg_ros.manifest import UNLABELED, ClassInfo

APPLICATION = 'rgbx_eval_bag'  # the viewer keeps what a user arranges by this name
JPEG_QUALITY = 80
OPACITY = 0.6  # of the classes over RGB
FLUSH_EVERY = 100  # pairs, of 10 MB at most as a rule
PATIENCE_S = 5.0  # with a file that does not grow
TELEMETRY = 'TELEMETRY_ENABLED'  # of the library, by OpenTelemetry
# Group of numbers -> those of a FrameRecord; each group is a plot.
NUMBERS = {'score': ('miou', 'accuracy', 'boundary_miou'),
           'certainty': ('confidence', 'consistency', 'agreement', 'aux_change'),
           'latency': ('decode_ms', 'thermal_ms', 'registration_ms', 'resize_ms', 'engine_ms')}
# Of the lines of a plot, one bundle after the other; the library's own are hard to tell apart.
COLORS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189),
          (140, 86, 75), (227, 119, 194), (127, 127, 127), (188, 189, 34), (23, 190, 207))
TITLES = {'score': 'Score', 'certainty': 'Confidence, consistency, agreement',
          'latency': 'Time by stage [ms]', 'skew': 'Skew, aux minus RGB [ms]'}


class RerunLog:
    """The sink that writes a .rrd file; what was written is removed after an exception."""

    def __init__(self, path: Path, classes: Sequence[ClassInfo], bundles: Sequence[str],
                 modality: str) -> None:
        """Take the names of the bundles in the order of an EvalFrame's lanes.

        Raises RgbxSegError without the library, as early as that.
        """
        self._rerun = _import()
        self._path, self._partial = path, path.with_name(f'{path.name}.part')
        self._classes, self._bundles, self._modality = classes, list(bundles), modality
        self._has_target, self._state = False, ''
        self._last: dict[str, bool] = {}  # entity of an image -> whether the last pair had it

    def __enter__(self) -> RerunLog:
        """Open the file."""
        rerun = self._rerun
        self._partial.parent.mkdir(parents=True, exist_ok=True)
        self._recording = rerun.RecordingStream(APPLICATION, send_properties=False)
        self._recording.set_log_time_enabled(False)  # of this machine, which tells nothing here
        self._recording.set_log_tick_enabled(False)
        try:
            self._recording.save(self._partial)
        except RuntimeError as error:
            raise self._unwritable(error) from None
        self._recording.send_recording_name(self._path.parent.name)
        infos = [rerun.AnnotationInfo(info.id, info.name, _paint(info)) for info in self._classes]
        infos.append(rerun.AnnotationInfo(UNLABELED, 'not labeled', (0, 0, 0, 0)))
        self._log('/', rerun.AnnotationContext(infos), static=True)
        for group, names in NUMBERS.items():
            lines = [(bundle, name) for bundle in self._bundles for name in names]
            for index, (bundle, name) in enumerate(lines):
                own = name.removesuffix('_ms').replace('_', ' ')
                title = own if len(self._bundles) == 1 else f'{own}, {bundle}'
                color = COLORS[index % len(COLORS)]
                self._log([group, bundle, name], rerun.SeriesLines(names=title, colors=color),
                          static=True)
        return self

    def add(self, frame: EvalFrame) -> None:
        """Log one pair."""
        pair = frame.pair
        if not self._last:
            self._recording.send_recording_start_time_nanos(pair.stamp_ns)
        self._recording.set_time('bag_time', timestamp=np.datetime64(pair.stamp_ns, 'ns'))
        self._recording.set_time('pair', sequence=pair.number)
        self._log_image('rgb', pair.rgb)
        self._log_target(pair)
        self._log(['skew'], self._rerun.Scalars(pair.skew_ns / 1e6))
        if pair.state != self._state:
            self._state = pair.state
            self._log(['state'], self._rerun.TextLog(pair.state))
        for bundle, lane, record in zip(self._bundles, frame.lanes, frame.records, strict=True):
            self._log_lane(bundle, lane)
            self._log_numbers(bundle, record)
        if pair.number % FLUSH_EVERY == FLUSH_EVERY - 1:
            self._flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Finish the file, or remove it."""
        whole = False
        try:
            if kind is None:
                self._recording.send_blueprint(self._blueprint())
                self._flush()
                whole = True
        finally:
            whole = self._close() and whole
            if not whole:
                self._partial.unlink(missing_ok=True)
        if whole:
            os.replace(self._partial, self._path)
        elif kind is None:
            raise self._unwritable(TimeoutError('it cannot be closed'))

    def _flush(self) -> None:
        """Wait until the file holds all that was logged."""
        # The library writes on a thread of its own; after an error of the disk that thread is gone,
        # and what waits for it would wait for ever. A slow disk is known by the file, which grows.
        size = -1
        while True:
            try:
                self._recording.flush(timeout_sec=PATIENCE_S)
                return
            except Exception as error:  # of a kind that differs by version
                before, size = size, self._partial.stat().st_size
                if size == before:
                    raise self._unwritable(error) from None

    def _close(self) -> bool:
        """Let the library close the file; return False where its writer is gone and never will."""
        thread = Thread(target=self._recording.disconnect, daemon=True)
        thread.start()
        thread.join(PATIENCE_S)
        if thread.is_alive():
            self._rerun.unregister_shutdown()  # it would wait at the end of the process as well
        return not thread.is_alive()

    def _unwritable(self, error: Exception) -> RgbxSegError:
        return RgbxSegError(f'{self._path}: the recording cannot be written ({error}), expected a '
                            'folder of ours with free space; make room, or leave out --rerun.')

    def _log(self, place: str | list[str], what: Any, static: bool = False) -> None:
        """Log to an entity; the parts of a list may hold any characters."""
        self._recording.log(place, what, static=static, strict=True)

    def _log_image(self, place: str, image: Image | None) -> None:
        """Log an image as a JPEG; None clears what the viewer would show on."""
        parts = place.split('\0')
        if image is not None:
            self._log(parts, self._rerun.EncodedImage(contents=_jpeg(image),
                                                      media_type='image/jpeg'))
        elif self._last.get(place):
            self._log(parts, self._rerun.Clear(recursive=False))
        self._last[place] = image is not None

    def _log_target(self, pair: BagPair) -> None:
        if pair.target is not None:
            self._has_target = True
            self._log(['target'], self._rerun.SegmentationImage(pair.target, opacity=OPACITY))
        elif self._last.get('target'):
            self._log(['target'], self._rerun.Clear(recursive=False))
        self._last['target'] = pair.target is not None

    def _log_lane(self, bundle: str, lane: LaneResult) -> None:
        self._log(['mask', bundle], self._rerun.SegmentationImage(lane.label, opacity=OPACITY))
        self._log_image(f'confidence\0{bundle}', lane.confidence)
        self._log_image(f'{self._modality}\0{bundle}', lane.aux)

    def _log_numbers(self, bundle: str, record: FrameRecord) -> None:
        for group, names in NUMBERS.items():
            for name in names:
                value = getattr(record, name)
                if not math.isnan(value):
                    self._log([group, bundle, name], self._rerun.Scalars(value))

    def _blueprint(self) -> Any:
        """Return what the viewer shows at first: masks over RGB, what they come from, plots."""
        import rerun.blueprint as shown

        path = self._rerun.new_entity_path
        over = [('Label', path(['target']))] if self._has_target else []
        over += [(bundle, path(['mask', bundle])) for bundle in self._bundles]
        masks = [shown.Spatial2DView(name=name, origin='/', contents=['/rgb', mask])
                 for name, mask in over]
        images = [shown.Spatial2DView(name='RGB', origin='/rgb')]
        for bundle in self._bundles:
            end = '' if len(self._bundles) == 1 else f', {bundle}'
            images += [shown.Spatial2DView(name=f'{group.capitalize()}{end}',
                                           origin=path([group, bundle]))
                       for group in (self._modality, 'confidence')]
        plots = [shown.TimeSeriesView(name=title, origin=f'/{group}')
                 for group, title in TITLES.items() if group != 'score' or self._has_target]
        states = shown.TextLogView(name='State', origin='/state')
        return shown.Blueprint(
            shown.Vertical(shown.Horizontal(*masks), shown.Horizontal(*images),
                           shown.Horizontal(*plots, states), row_shares=[4, 3, 3]),
            shown.TimePanel(state='collapsed', timeline='bag_time'), auto_views=False,
            collapse_panels=True)


def _import() -> Any:
    """Return the library, which must not start to tell of itself."""
    before = os.environ.get(TELEMETRY)
    os.environ[TELEMETRY] = 'false'  # it looks once, when it is imported
    try:
        import rerun
    except ImportError as error:
        raise RgbxSegError(f'a recording for Rerun needs its library ({error}); run `pip install '
                           'rerun-sdk`, or leave out --rerun.') from None
    finally:
        os.environ.pop(TELEMETRY)
        if before is not None:
            os.environ[TELEMETRY] = before
    return rerun


def _paint(info: ClassInfo) -> tuple[int, int, int, int]:
    """Return RGBA of a class; black ones leave the camera's color, as in the overlay."""
    return (*info.color, 255 if any(info.color) else 0)


def _jpeg(image: Image) -> bytes:
    """Return RGB (H, W, 3) or gray (H, W) as a JPEG."""
    pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode('.jpg', pixels, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))[1].tobytes()
