# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What the raw values of one aux stream mean, and which of them become 0 and 255.

Three parties speak of it: the bundle (its training range), the parameters `aux.*`, and the
values themselves, which show a wrong camera name or Celsius for kelvin. Where they disagree the
stream gets a range of its own percentiles instead of a black image, and a sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.aux_presets import CAMERAS, PLAUSIBLE_K, PRESETS, ZERO_C, matching, to_kelvin
from rgbx_seg_ros.aux_range import percentiles, sample_of
from rgbx_seg_ros.manifest import AuxEncoding

Array = NDArray[Any]

NORMALIZE = ('manifest', 'fixed', 'percentile', 'clahe')
UNITS = ('auto', 'K', 'C', 'counts')
FALSE_COLOR = ('convert', 'keep', 'refuse')
TEMPERATURES = ('K', 'C')
MIN_SPAN_K = 2.0  # a narrower percentile range would show noise; where the bundle says none
GIVE_UP_AFTER = 10  # implausible frames in a row, before a fixed range is given up
KELVIN_ABOVE = 150.0  # medians of float images: above, they are kelvin
NO_DOUBT = (100.0, 220.0)  # below and above, one frame is enough to know


class Scale(NamedTuple):
    """value = raw * scale + offset, in `unit`: K, C, auto (one of these), or the bundle's own."""

    scale: float
    offset: float
    unit: str


@dataclass(frozen=True)
class AuxConfig:
    """How aux images are read: the parameters `aux.*`."""

    camera: str = 'manifest'  # manifest | custom | a name of PRESETS: what integers mean
    normalize: str = 'manifest'  # manifest (as in training) | fixed | percentile | clahe
    low: float = 263.15  # K that becomes 0 with `fixed`
    high: float = 323.15  # K that becomes 255
    low_percentile: float = 1.0  # for percentile, clahe, and where a fixed range cannot be used
    high_percentile: float = 99.0
    scale: float = 1.0  # camera `custom`: value = raw * scale + offset
    offset: float = 0.0
    unit: str = 'auto'  # of float images and of `custom`: auto | K | C | counts
    smoothing_s: float = 0.0  # time constant of percentile bounds, s
    hot_pixels: bool = False  # replace defect pixels
    false_color: str = 'convert'  # convert to gray | keep as in training | refuse

    def __post_init__(self) -> None:
        """Refuse unknown names and impossible ranges."""
        for name, valid in (('camera', CAMERAS), ('normalize', NORMALIZE),
                            ('unit', UNITS), ('false_color', FALSE_COLOR)):
            value = getattr(self, name)
            _expect(value in valid, name, f'"{value}"', 'one of ' + ', '.join(valid))
        for name in ('low', 'high', 'scale', 'offset'):
            _expect(isfinite(getattr(self, name)), name, getattr(self, name), 'a finite number')
        _expect(self.low < self.high, 'low', self.low, f'less than aux.high ({self.high})')
        good = 0 <= self.low_percentile < self.high_percentile <= 100
        _expect(good, 'low_percentile', self.low_percentile,
                f'0..100 and less than aux.high_percentile ({self.high_percentile})')
        _expect(self.scale > 0, 'scale', self.scale, 'a number above 0')
        _expect(0 <= self.smoothing_s <= 60, 'smoothing', self.smoothing_s, '0..60 s')


def bounds(raw: Array, target: AuxEncoding, scale: Scale,
           with_median: bool = False) -> tuple[float, float, float]:
    """Return the raw values that become 0 and 255 by the range `target`, and the median or 0."""
    if target.range == 'fixed':
        shift = _shift(scale.unit, target.unit)
        low, high = target.low + shift, target.high + shift
        return (low - scale.offset) / scale.scale, (high - scale.offset) / scale.scale, 0.0
    sample = sample_of(raw)
    if sample.size == 0:
        return 0.0, 1.0, 0.0
    percents = (target.low, target.high, 50.0)[:3 if with_median else 2]
    low, high, *middle = percentiles(sample, percents)
    comparable = target.unit == scale.unit or {target.unit, scale.unit} <= {*TEMPERATURES, 'auto'}
    missing = target.min_span / scale.scale - (high - low) if comparable else 0.0
    if missing > 0:
        low, high = low - missing / 2, high + missing / 2
    return low, high, middle[0] if middle else 0.0


class Radiometry:
    """The meaning of one stream; `tell(topic, sentence)` hears what a user should know."""

    def __init__(self, encoding: AuxEncoding, config: AuxConfig,
                 tell: Callable[[str, str], None]) -> None:
        """Read the bundle's `encoding` and the parameters."""
        self.encoding = encoding
        self.config = config
        self.preset = PRESETS.get(config.camera)
        self._tell = tell
        self._spread = self._percentile_range()
        self._wanted = {'manifest': encoding, 'fixed': replace(
            encoding, range='fixed', low=config.low, high=config.high, unit='K', min_span=0.0),
        }.get(config.normalize, self._spread)
        if self.preset and not self.preset.confirmed and self.preset.unit != 'counts':
            tell('preset', f'The scale of aux.camera "{config.camera}" is not from its maker '
                           f'({self.preset.source}); compare the camera with a thermometer once.')
        self.reset()

    def reset(self) -> None:
        """Forget what the values have shown."""
        self._unit, self._sure = '', False
        self._implausible = 0
        self._plausible = False

    def is_agc(self, raw: Array) -> bool:
        """Tell whether the camera has normalized the image: 8 bits, unless declared as counts."""
        declared = self.config.camera == 'custom' or (self.preset and self.preset.bits == 8)
        return raw.dtype == np.uint8 and (raw.ndim == 3 or not declared)

    def __call__(self, raw: Array, flat: bool) -> tuple[AuxEncoding, Scale]:
        """Return the range for this image, and the scale to read it by."""
        scale, wanted = self._scale(raw), self._wanted
        if wanted.range == 'percentile':
            if wanted.min_span > 0 and scale.unit in TEMPERATURES and raw.dtype != np.float32:
                self._fails(raw, flat, scale, wanted)  # its span in kelvin depends on the scale
            return wanted, scale
        if wanted.unit not in TEMPERATURES:
            return (wanted, scale) if wanted.unit == scale.unit else self._give_up(
                f'The range of the bundle is in {wanted.unit}, which aux.camera '
                f'"{self.config.camera}" does not count', scale)
        if scale.unit == 'auto':
            scale = scale._replace(unit=self._find_unit(raw, scale))
        if scale.unit not in TEMPERATURES:
            return self._give_up(f'The fixed range {wanted.low:g}..{wanted.high:g} {wanted.unit} '
                                 f'needs temperatures, but the aux camera gives {scale.unit}',
                                 scale)
        return (self._spread if self._fails(raw, flat, scale, wanted) else wanted), scale

    def _percentile_range(self) -> AuxEncoding:
        config, bundle = self.config, self.encoding
        spread = replace(bundle, range='percentile', low=config.low_percentile,
                         high=config.high_percentile)
        if bundle.min_span > 0 or bundle.unit not in TEMPERATURES:
            return spread
        return replace(spread, min_span=MIN_SPAN_K, unit='K')

    def _scale(self, raw: Array) -> Scale:
        config, bundle = self.config, self.encoding
        if raw.dtype == np.float32:
            # In the unit already, as REP-118 has it for depth.
            unit = 'C' if config.camera == 'seek_float' and config.unit == 'auto' else config.unit
            own = bundle.unit not in TEMPERATURES and config.normalize != 'fixed'
            return Scale(1.0, 0.0, bundle.unit if unit == 'auto' and own else unit)
        if self.preset:
            return Scale(self.preset.scale, self.preset.offset, self.preset.unit)
        if config.camera == 'custom':
            return Scale(config.scale, config.offset, config.unit)
        return Scale(bundle.scale, bundle.offset, bundle.unit)

    def _find_unit(self, raw: Array, scale: Scale) -> str:
        """Return K or C by the median; doubtful frames decide only until one leaves no doubt."""
        if self._sure:
            return self._unit
        sample = sample_of(raw)
        sample = sample[sample != 0]  # often "no reading"
        if sample.size == 0:
            return self._unit or 'K'
        middle = percentiles(sample, (50.0,))[0] * scale.scale + scale.offset
        self._sure = not NO_DOUBT[0] <= middle <= NO_DOUBT[1]
        if self._sure or not self._unit:
            self._unit = 'K' if middle > KELVIN_ABOVE else 'C'
        if self._sure:
            name = {'K': 'kelvin', 'C': 'degrees Celsius'}[self._unit]
            self._tell('unit', f'The aux values are taken as {name} (median {middle:.1f}); set '
                               'aux.unit if they are not.')
        return self._unit

    def _fails(self, raw: Array, flat: bool, scale: Scale, wanted: AuxEncoding) -> bool:
        """Tell whether the temperatures have been impossible for a while, as by a wrong scale."""
        if self._plausible:
            return False
        sample = sample_of(raw)
        if flat or sample.size == 0:
            return self._implausible >= GIVE_UP_AFTER
        middle = percentiles(sample, (50.0,))[0]
        kelvin = to_kelvin(middle * scale.scale + scale.offset, scale.unit)
        fixed = wanted.range == 'fixed'
        if PLAUSIBLE_K[0] <= kelvin <= PLAUSIBLE_K[1] or (fixed and self._within(kelvin, wanted)):
            self._plausible = self._implausible == 0
            self._implausible = 0
            return False
        self._implausible += 1
        if self._implausible < GIVE_UP_AFTER:
            return False
        cure = 'its percentiles replace the fixed range' if fixed else 'the scale is wrong'
        self._tell('implausible', f'By aux.camera "{self.config.camera}" the median of the aux '
                                  f'image is {kelvin:.1f} K, so {cure}; {_advice(middle, raw)}.')
        return True

    @staticmethod
    def _within(kelvin: float, wanted: AuxEncoding) -> bool:
        return to_kelvin(wanted.low, wanted.unit) <= kelvin <= to_kelvin(wanted.high, wanted.unit)

    def _give_up(self, found: str, scale: Scale) -> tuple[AuxEncoding, Scale]:
        self._tell('range', f'{found}, so the percentiles {self._spread.low:g} and '
                            f'{self._spread.high:g} of each image are used; set aux.camera to what '
                            'the camera gives, or aux.normalize to percentile.')
        return self._spread, scale


def _advice(middle: float, raw: Array) -> str:
    names = matching(middle) if raw.dtype != np.float32 else []
    if names:
        return f'its median count of {middle:g} would be an ambient temperature with aux.camera ' \
               + ' or '.join(names)
    bits = ' of 14 bits' if raw.dtype == np.uint16 and int(raw.max()) < 1 << 14 else ''
    return f'its values{bits} fit no known camera, so they may not be temperatures'


def _shift(raw_unit: str, unit: str) -> float:
    """Return what turns a temperature in `unit` into one in `raw_unit`."""
    return {('K', 'C'): ZERO_C, ('C', 'K'): -ZERO_C}.get((raw_unit, unit), 0.0)


def _expect(good: bool, name: str, found: object, expected: str) -> None:
    if not good:
        raise RgbxSegError(f'aux.{name} is {found}; expected {expected}.')
