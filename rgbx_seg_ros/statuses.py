# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What the node's counts mean: one status per concern, by thresholds, without ROS.

Levels are decided over the last WINDOW_REPORTS reports and, once raised, fall again only
HYSTERESIS below their threshold, so that a value at the threshold does not flap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.remedies import (
    BROKEN,
    FROZEN,
    FROZEN_RGB,
    HARMLESS,
    NO_LABEL_FITS,
    STATES,
    TOLD_ELSEWHERE,
    UNPAIRED,
)

WINDOW_REPORTS = 5  # of a second each
HYSTERESIS = 0.2  # of the threshold
SLACK = 0.05  # of a minimum rate: a camera of 30 Hz has 29.97
CLOCK_S = 1.0  # stamps this far from the node's clock at arrival are another clock's
COVERAGE = 0.1  # of the RGB image; below it, the aux camera hardly sees what RGB sees
Problem = tuple['Level', str]


class Level(IntEnum):
    """The levels of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


class Status(NamedTuple):
    """One concern: how it is, in a sentence, and the values behind it."""

    concern: str
    level: Level
    message: str
    values: dict[str, str]


class Timing(NamedTuple):
    """One published pair in milliseconds, see SegmentationStats.msg."""

    skew_ms: float
    latency_ms: float
    engine_ms: float
    overhead_ms: float
    decode_ms: float
    thermal_ms: float
    registration_ms: float
    resize_ms: float
    publish_ms: float
    wait_ms: float


@dataclass(frozen=True)
class HealthConfig:
    """Thresholds, the parameters diagnostics.*; 0 switches a minimum rate or the memory off."""

    stale_after_s: float = 2.0  # without a frame for this long, a camera is gone, not slow
    min_rgb_rate_hz: float = 0.0
    min_aux_rate_hz: float = 0.0
    warn_latency_s: float = 0.2  # p95 of capture to publication
    error_latency_s: float = 1.0
    warn_skew_s: float = 0.03  # median distance of the two stamps
    warn_drops: float = 0.05  # share of pairs lost
    error_drops: float = 0.5
    warn_memory_mb: float = 0.0  # resident memory of the process

    def __post_init__(self) -> None:
        """Refuse thresholds that are none."""
        for field in fields(self):
            value = getattr(self, field.name)
            name = 'diagnostics.' + field.name.rpartition('_')[0]
            name = f'diagnostics.{field.name}' if field.name.endswith('drops') else name
            limit = 1.0 if field.name.endswith('drops') else float('inf')
            if not 0 <= value <= limit or value == float('inf'):
                span = '0..1' if limit == 1.0 else 'a number from 0 on'
                raise RgbxSegError(f'{name} is {value}; expected {span}.')
        if self.stale_after_s == 0:
            raise RgbxSegError('diagnostics.stale_after is 0; expected more, such as 2.0 s.')
        for concern, unit in (('latency', '_s'), ('drops', '')):
            warn, error = (getattr(self, f'{level}_{concern}{unit}') for level in ('warn', 'error'))
            if warn > error:
                raise RgbxSegError(f'diagnostics.warn_{concern} is {warn}; expected at most '
                                   f'diagnostics.error_{concern}, which is {error}.')


class Score(NamedTuple):
    """What labels say of the masks since activation; NaN where they say nothing."""

    labels: int = 0  # received
    scored: int = 0  # masks that met their label
    without_mask: int = 0  # labels that were given up
    without_label: int = 0  # masks that were
    skipped: int = 0  # met, but scoring was busy
    refused: Mapping[str, int] = {}  # labels by cause
    fault: str = ''  # why the newest one was refused, as a sentence, if it was
    miou: float = float('nan')
    miou_strict: float = float('nan')
    accuracy: float = float('nan')
    iou: Mapping[str, float] = {}  # by name of the class


class Facts(NamedTuple):
    """What the rest of the node knows of a camera pair when it is asked."""

    state: str = 'paired'  # degraded.Feed.state
    frozen: bool = False  # the aux image stands still
    frozen_rgb: bool = False  # the RGB image does
    skew_median_ns: int | None = None  # Pairer.skew_median_ns: aux - rgb without offsets
    registration: str = 'none'  # registration.mode
    missing: str = ''  # what the registration waits for, as a sentence
    coverage: float | None = None  # share of the RGB image that the aux camera sees
    engine: str = ''  # backend, version, device, precision
    choice: str = ''  # why this engine, as a sentence
    warning: str = ''  # what is wrong with the choice, as a sentence
    failure: str = ''  # why the last pair failed that did
    broken: bool = False  # it failed in a way that does not heal
    score: Score | None = None  # None where labels are not listened to


class Interval(NamedTuple):
    """What was counted since the last report, and over the last few."""

    received: dict[str, int]  # since activation
    published: int  # since activation
    drops: Mapping[str, int]  # since activation
    rates: dict[str, float]  # of rgb, aux and published since the last report [Hz]
    recent_rates: dict[str, float] | None  # the same over the last reports; None at the start
    recent: Counter[str]  # drops over the last reports
    recent_published: int
    ages_s: dict[str, float | None]  # since the last frame; None: never one
    behind_s: dict[str, float]  # the clock minus the stamps at arrival, at best
    timings: list[Timing]  # over a longer time, for the percentiles shown
    recent_timings: list[Timing]


class Thresholds:
    """Which thresholds were exceeded at the last report."""

    def __init__(self) -> None:
        """Start with none."""
        self._raised: set[str] = set()

    def above(self, name: str, value: float, limit: float) -> bool:
        """Return whether `value` exceeds `limit`, or, after it did, still is close to it."""
        raised = value > (limit * (1 - HYSTERESIS) if name in self._raised else limit)
        (self._raised.add if raised else self._raised.discard)(name)
        return raised

    def below(self, name: str, value: float, limit: float) -> bool:
        """Return whether a rate is SLACK under `limit`, or, after it was, not yet near it."""
        slack = SLACK / 2 if name in self._raised else SLACK
        raised = value < limit * (1 - slack)
        (self._raised.add if raised else self._raised.discard)(name)
        return raised

    def level(self, name: str, value: float, warn: float, error: float) -> Level:
        """Return the level of a value that is bad when it is high."""
        is_error = self.above(f'error {name}', value, error)
        is_warn = self.above(f'warn {name}', value, warn)
        return Level.ERROR if is_error else Level.WARN if is_warn else Level.OK


def cameras(interval: Interval, facts: Facts, config: HealthConfig, limits: Thresholds) -> Status:
    """Return whether both cameras deliver, at their rates and by the node's clock."""
    values = {}
    for name, age_s in interval.ages_s.items():
        values[f'{name} rate [Hz]'] = f'{interval.rates[name]:.1f}'
        values[f'{name} received'] = str(interval.received[name])
        values[f'{name} age [s]'] = 'never' if age_s is None else f'{age_s:.2f}'
    for name, behind_s in interval.behind_s.items():
        values[f'{name} stamp to arrival [ms]'] = f'{behind_s * 1e3:.1f}'
    # An age below zero: the clock jumped back, and nothing has come since.
    gone = [name for name, age_s in interval.ages_s.items()
            if age_s is None or not 0 <= age_s <= config.stale_after_s]
    if gone:
        return Status('cameras', Level.STALE, f'no {" and no ".join(gone)} images', values)
    problems: list[Problem] = []
    for name in interval.ages_s:
        least = getattr(config, f'min_{name}_rate_hz')
        rate = interval.recent_rates[name] if interval.recent_rates else least
        if limits.below(name, rate, least):
            problems.append((Level.WARN, f'{name} comes at {rate:.1f} Hz, expected {least:g}'))
    for name, behind_s in interval.behind_s.items():
        if abs(behind_s) > CLOCK_S:
            side = 'before' if behind_s > 0 else 'after'
            problems.append((Level.WARN, f'{name} stamps are {abs(behind_s):.1f} s {side} the '
                                         "node's clock"))
    return _status('cameras', problems, 'both cameras deliver', values)


def pairing(interval: Interval, facts: Facts, config: HealthConfig, limits: Thresholds) -> Status:
    """Return whether frames find their partners, how far apart, and what is lost on the way."""
    values = {'state': facts.state}
    values |= {f'dropped: {cause}': str(n) for cause, n in sorted(interval.drops.items()) if n}
    problems: list[Problem] = []
    if facts.state in STATES:
        level = Level.ERROR if facts.state == 'stopped' else Level.WARN
        problems.append((level, STATES[facts.state]))
    elif facts.state == 'waiting' and interval.recent_rates and all(
            interval.recent_rates[name] > 0 for name in ('rgb', 'aux')):
        problems.append((Level.WARN, UNPAIRED))
    if facts.frozen:
        problems.append((Level.WARN, FROZEN))
    if facts.frozen_rgb:
        problems.append((Level.WARN, FROZEN_RGB))
    problems += _lost(interval, config, limits)
    if interval.timings:
        skews = np.array([timing.skew_ms for timing in interval.timings])
        values['skew p50 [ms]'] = f'{np.median(skews):.2f}'
        values['skew p95 [ms]'] = f'{np.percentile(np.abs(skews), 95):.2f}'  # of its distance
        if facts.skew_median_ns is not None:
            values['skew without offsets [ms]'] = f'{facts.skew_median_ns / 1e6:.2f}'
        if facts.state == 'paired':
            problems += _skew(interval, facts, config, limits)
    return _status('pairing', problems, 'pairs are complete', values)


def _lost(interval: Interval, config: HealthConfig, limits: Thresholds) -> list[Problem]:
    lost = {cause: count for cause, count in interval.recent.items()
            if cause not in HARMLESS + TOLD_ELSEWHERE}
    through = interval.recent_published + sum(
        interval.recent[cause] for cause in ('replaced', 'engine', 'no_listener', 'disabled'))
    share = sum(lost.values()) / max(sum(lost.values()) + through, 1)
    level = limits.level('drops', share, config.warn_drops, config.error_drops)
    if level == Level.OK:
        return []
    worst = max(lost, key=lambda cause: lost[cause], default='')
    return [(level, f'{share:.0%} lost, most by "{worst}"')]


def _skew(interval: Interval, facts: Facts, config: HealthConfig,
          limits: Thresholds) -> list[Problem]:
    skews = np.array([timing.skew_ms for timing in interval.recent_timings])
    if not skews.size or not limits.above('skew', float(np.median(np.abs(skews))) / 1e3,
                                          config.warn_skew_s):
        return []
    middle = float(np.median(skews))
    sentence = f'aux is {abs(middle):.1f} ms {"after" if middle > 0 else "before"} RGB'
    low, high = np.percentile(skews, (10, 90))
    if facts.skew_median_ns is not None and high - low < max(5.0, abs(middle) / 4):
        # Cameras without a trigger drift; a distance that stays is a delay that can be told.
        sentence += (', steadily; if that is a delay of stamps, set sync.aux_offset: '
                     f'{-facts.skew_median_ns / 1e9:.3f}')
    return [(Level.WARN, sentence)]


def registration(facts: Facts) -> Status | None:
    """Return whether aux can be laid over RGB, or None where nobody asks for it."""
    if facts.registration == 'none':
        return None
    values = {'mode': facts.registration}
    problems: list[Problem] = []
    if facts.missing:
        problems.append((Level.WARN, facts.missing))
    elif facts.coverage is not None:
        values['coverage [%]'] = f'{facts.coverage * 100:.0f}'
        if facts.coverage < COVERAGE:
            level = Level.WARN if facts.coverage > 0 else Level.ERROR
            problems.append((level, f'the aux camera sees {facts.coverage:.0%} of the RGB image; '
                                    'check the extrinsics and the distance'))
    return _status('registration', problems, 'aux lies on RGB', values)


def inference(interval: Interval, facts: Facts, config: HealthConfig,
              limits: Thresholds) -> Status:
    """Return how many masks come, how late, and by which engine."""
    values = {'rate [Hz]': f'{interval.rates["published"]:.1f}',
              'published': str(interval.published)}
    values |= {name: value for name, value in (
        ('engine', facts.engine), ('choice', facts.choice)) if value}
    if interval.timings:
        stages = [name for name in Timing._fields if name.endswith('_ms') and name != 'skew_ms']
        table = [[getattr(timing, name) for name in stages] for timing in interval.timings]
        middle, high = np.percentile(table, (50, 95), axis=0)
        for name, half, most in zip(stages, middle, high, strict=True):
            values[f'{name[:-3]} p50 [ms]'] = f'{half:.1f}'
            values[f'{name[:-3]} p95 [ms]'] = f'{most:.1f}'
    problems = _engine(interval, facts)
    clocks = [behind_s for behind_s in interval.behind_s.values() if abs(behind_s) > CLOCK_S]
    if interval.recent_timings and not clocks:  # else it would only tell the clocks' difference
        late_s = float(np.percentile([timing.latency_ms for timing in interval.recent_timings],
                                     95)) / 1e3
        level = limits.level('latency', late_s, config.warn_latency_s, config.error_latency_s)
        if level != Level.OK:
            problems.append((level, f'masks are {late_s * 1e3:.0f} ms old (p95)'))
    replaced = interval.recent['replaced']
    share = replaced / max(replaced + interval.recent_published, 1)
    if limits.above('replaced', share, config.warn_drops):
        problems.append((Level.WARN, f'the model is slower than the cameras: {share:.0%} of the '
                                     'pairs were replaced by newer ones'))
    return _status('inference', problems, f'{interval.rates["published"]:.1f} masks a second',
                   values)


def _engine(interval: Interval, facts: Facts) -> list[Problem]:
    """Return what is wrong with the engine itself."""
    problems: list[Problem] = []
    if facts.broken:
        problems.append((Level.ERROR, f'{BROKEN}: {facts.failure}'))
    elif failed := interval.recent['engine']:
        reason = f', the last one: {facts.failure}' if facts.failure else '; the log tells why'
        problems.append((Level.ERROR, f'{failed} pairs failed{reason}'))
    if facts.warning:
        problems.append((Level.WARN, facts.warning))
    return problems


def scoring(score: Score | None) -> Status | None:
    """Return how good the masks are by the labels, or None where there are none to be."""
    if score is None:
        return None
    values = {'mIoU': f'{score.miou:.3f}', 'mIoU strict': f'{score.miou_strict:.3f}',
              'pixel accuracy': f'{score.accuracy:.3f}', 'masks scored': str(score.scored),
              'labels received': str(score.labels), 'labels without mask': str(score.without_mask),
              'masks without label': str(score.without_label),
              'skipped, scoring was busy': str(score.skipped)}
    values |= {f'labels refused: {cause}': str(n) for cause, n in sorted(score.refused.items())}
    values |= {f'IoU {name}': f'{iou:.3f}' for name, iou in score.iou.items()}
    problems: list[Problem] = []
    if score.fault:
        problems.append((Level.WARN, score.fault.rstrip('.')))
    elif not score.labels:
        problems.append((Level.WARN, 'no labels have come'))
    elif not score.scored and score.without_mask and score.without_label:
        problems.append((Level.WARN, NO_LABEL_FITS))
    good = f'mIoU {score.miou:.3f} over {score.scored} masks' if score.scored else 'no mask yet'
    return _status('scoring', problems, good, values)


def _status(concern: str, problems: list[Problem], good: str, values: dict[str, str]) -> Status:
    """Return the worst level, and the sentences of all problems, worst first."""
    ordered = sorted(problems, key=lambda problem: -problem[0])
    message = '; '.join(sentence for _, sentence in ordered) or good
    return Status(concern, ordered[0][0] if ordered else Level.OK, message, values)
