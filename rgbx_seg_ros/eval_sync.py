# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How the streams of a bag fit in time, gathered while it is read: rates, gaps, jitter, skew."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros.eval_frames import BagPair
from rgbx_seg_ros.sync import STREAMS

GAP = 2.5  # median periods without a frame
LABEL = 'label'

Times = NDArray[np.int64]


class SyncReport:
    """Counts and times of one pass over a bag."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.undecodable: Counter[str] = Counter(dict.fromkeys(STREAMS, 0))
        self._stamps = {stream: array('q') for stream in (*STREAMS, LABEL)}
        self._received = {stream: array('q') for stream in (*STREAMS, LABEL)}
        self._skews = array('q')
        self._states: Counter[str] = Counter()
        self._disordered: set[str] = set()

    def receive(self, stream: str, stamp_ns: int, received_ns: int) -> None:
        """Take a message of 'rgb', 'aux' or 'label'."""
        stamps = self._stamps[stream]
        if stamps and stamp_ns < stamps[-1]:
            self._disordered.add(stream)
        stamps.append(stamp_ns)
        self._received[stream].append(received_ns)

    def in_order(self, stream: str) -> bool:
        """Return whether the stamps of a stream have only risen so far."""
        return stream not in self._disordered

    def pair(self, pair: BagPair) -> None:
        """Take a pair that is used."""
        self._states[pair.state] += 1
        if pair.rgb is not None and pair.aux is not None:
            self._skews.append(pair.skew_ns)

    @property
    def duration_s(self) -> float:
        """From the first reception of an image to the last."""
        received = [times for stream in STREAMS if (times := self._received[stream])]
        if not received:
            return 0.0
        return (max(map(max, received)) - min(map(min, received))) / 1e9

    def summary(self, drops: Mapping[str, int]) -> dict[str, Any]:
        """Return the section `sync` of a bag's result; `drops` by cause.

        Rates are of the median period of the stamps; a gap is an interval above GAP such periods;
        jitter is the 95th percentile of the distance of an interval from the median, gaps left out;
        `camera_ms` is reception minus stamp. Skew (aux minus RGB) has its sign in the mean; p50,
        p95 and max are of its size. What does not exist is None.
        """
        intervals = {stream: _intervals(stamps) for stream, stamps in self._stamps.items()}
        medians = {stream: float(np.median(times)) for stream, times in intervals.items()
                   if times.size}
        return {
            'rates_hz': {stream: 1e9 / medians[stream] if stream in medians else None
                         for stream in intervals},
            'frames': {stream: len(stamps) for stream, stamps in self._stamps.items()},
            'gaps': {stream: _gaps(times, medians.get(stream, 0.0))
                     for stream, times in intervals.items()},
            'jitter_ms': {stream: _jitter(times, medians.get(stream, 0.0))
                          for stream, times in intervals.items()},
            'camera_ms': {stream: _percentiles(self._delays(stream)) for stream in STREAMS},
            'clock_offset_ms': self._clock_offset(),
            'pairs': self._states.total(),
            'drops': dict(sorted((cause, n) for cause, n in drops.items() if n)),
            'states': dict(sorted(self._states.items())),
            'undecodable': dict(self.undecodable),
            'skew_ms': self._skew()}

    def _delays(self, stream: str) -> Times:
        stamps, received = (np.array(times[stream], np.int64)
                            for times in (self._stamps, self._received))
        delays: Times = (received - stamps)[stamps > 0]
        return delays

    def _clock_offset(self) -> float | None:
        """How far aux stamps are ahead of RGB stamps of images that arrive together."""
        rgb, aux = (self._delays(stream) for stream in STREAMS)
        if not rgb.size or not aux.size:
            return None
        return float(np.median(rgb) - np.median(aux)) / 1e6

    def _skew(self) -> dict[str, float | None]:
        skews = np.array(self._skews, np.float64) / 1e6
        if not skews.size:
            return dict.fromkeys(('p50', 'p95', 'max', 'mean'))
        sizes = np.abs(skews)
        return {'p50': float(np.median(sizes)), 'p95': float(np.percentile(sizes, 95)),
                'max': float(sizes.max()), 'mean': float(skews.mean())}


def _intervals(stamps: Iterable[int]) -> Times:
    """Return the times between stamps that rise; a clock that jumps back leaves none."""
    known = np.array([stamp for stamp in stamps if stamp > 0], np.int64)
    times = np.diff(known)
    rising: Times = times[times > 0]
    return rising


def _gaps(times: Times, median: float) -> dict[str, float | int]:
    gaps = times[times > GAP * median]
    return {'longest_s': float(times.max(initial=0)) / 1e9, 'count': int(gaps.size)}


def _jitter(times: Times, median: float) -> float | None:
    regular = times[times <= GAP * median]
    return float(np.percentile(np.abs(regular - median), 95)) / 1e6 if regular.size else None


def _percentiles(times: Times) -> dict[str, float | None]:
    if not times.size:
        return {'p50': None, 'p95': None}
    return {'p50': float(np.median(times)) / 1e6, 'p95': float(np.percentile(times, 95)) / 1e6}
