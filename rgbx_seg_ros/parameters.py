# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node's parameters as one table, their validation, and the records the node runs by.

With several camera pairs (`pairs: [front, rear]`), all parameters but those of NODE_WIDE may be
given for one pair with its name in front, `front.registration.file`; the plain one holds for the
others.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.aux_presets import CAMERAS
from rgbx_seg_ros.degraded import AUX_LOST, RGB_LOST, DegradedConfig
from rgbx_seg_ros.engine import BACKENDS, Options, Size
from rgbx_seg_ros.health import HealthConfig
from rgbx_seg_ros.live_score import ScoreConfig
from rgbx_seg_ros.manifest import MAX_SCENE_EVERY, MAX_SIDE, PRECISIONS, UNLABELED
from rgbx_seg_ros.pipeline import PipelineConfig
from rgbx_seg_ros.radiometry import FALSE_COLOR, NORMALIZE, UNITS, AuxConfig
from rgbx_seg_ros.registration import MODES, RegistrationConfig
from rgbx_seg_ros.sync import ANCHORS, POLICIES, SyncConfig
from rgbx_seg_ros.vocabulary import MAX_NAME

ROS_PARAMETERS = ('use_sim_time', 'start_type_description_service')  # rclpy's own
TRANSPORTS = ('raw', 'compressed')
NODE_WIDE = ('bundle', 'backend', 'precision', 'engine.file', 'engine.rgb_size', 'warmup',
             'autostart', 'pairs', 'classes', 'classes_file')
WITH_ENGINE_FILES = ('tensorrt', 'tensorrt_rtx')  # backends
SIZE = '([1-9][0-9]{0,4})x([1-9][0-9]{0,4})'  # width and height
MAX_PAIRS = 16
MAX_TOLD = 200  # characters of a value that is refused
UNIT_SUFFIXES = ('', '_s', '_m', '_hz', '_mb')  # of a record's field; parameters leave it out

Value = bool | int | float | str | list[str]
Record = TypeVar('Record')


@dataclass(frozen=True)
class Parameter:
    """One parameter of the node; `read_only` ones may change only while it is unconfigured."""

    name: str
    default: Value
    description: str  # one sentence, with the unit
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    pattern: tuple[str, str] | None = None  # a regular expression of texts, and it in words
    read_only: bool = True


PARAMETERS = (
    Parameter('bundle', '', 'Folder with model.onnx and manifest.yaml, as rgbx_export writes it.'),
    Parameter('backend', 'auto', 'Inference library; auto takes the first one that works here.',
              choices=('auto', *BACKENDS)),
    Parameter('precision', 'auto', 'Number format of the engine; auto takes the fastest one that '
              'agrees with fp32.', choices=('auto', *PRECISIONS)),
    Parameter('engine.file', '', 'TensorRT engine, or folder of engines, to run as it is; empty: '
              'one of its cache, or built.'),
    Parameter('engine.rgb_size', '', 'WIDTHxHEIGHT of the RGB camera, for a bundle with a form of '
              'the model for it.',
              pattern=(f'|{SIZE}', f'WIDTHxHEIGHT, such as 640x480, up to {MAX_SIDE} each, or an '
                                   'empty text')),
    Parameter('warmup', 2, 'Inferences on black images before the node is configured [count].',
              0, 100),
    Parameter('autostart', True, 'Configure and activate without a lifecycle manager.'),
    Parameter('pairs', [''], 'Names of the camera pairs; one without a name has no prefix.'),
    Parameter('classes', [''], 'Names of the classes to find, with a bundle that lets them be '
              'chosen; empty: those of classes_file, or of the bundle.', read_only=False),
    Parameter('classes_file', '', 'YAML of classes with names, colors and descriptions, or a bank '
              'of rgbx_embed_classes.', read_only=False),
    Parameter('rgb.transport', 'raw', 'raw: Image; compressed: CompressedImage on …/compressed.',
              choices=TRANSPORTS),
    Parameter('aux.transport', 'raw', 'raw: Image; compressed: CompressedImage on …/compressed.',
              choices=TRANSPORTS),
    Parameter('sync.policy', 'nearest', 'Which aux frame belongs to an RGB frame.',
              choices=POLICIES),
    Parameter('sync.anchor', 'auto', 'Stream whose every frame seeks a partner; auto: the slower.',
              choices=ANCHORS),
    Parameter('sync.max_skew', 0.05, 'Largest distance of the stamps of a pair [s].', 0.0, 10.0),
    Parameter('sync.max_wait', 0.1, 'Longest wait of a frame for a better partner [s].', 0.0, 10.0),
    Parameter('sync.max_age', 0.2, 'Policy latest: oldest aux frame that is still used [s].',
              0.0, 60.0),
    Parameter('sync.rgb_offset', 0.0, 'Added to RGB stamps for matching only [s].', -10.0, 10.0),
    Parameter('sync.aux_offset', 0.0, 'Added to aux stamps for matching only [s].', -10.0, 10.0),
    Parameter('aux.camera', 'manifest', 'Aux camera by name: what its counts mean.',
              choices=CAMERAS),
    Parameter('aux.scale', 1.0, 'Camera custom: value per count [aux.unit].', 1e-6, 1e3),
    Parameter('aux.offset', 0.0, 'Camera custom: value at count zero [aux.unit].', -1e4, 1e4),
    Parameter('aux.unit', 'auto', 'Unit of float images, and of camera custom.', choices=UNITS),
    Parameter('aux.normalize', 'manifest', 'How kelvin become 0..255.', choices=NORMALIZE),
    Parameter('aux.low', 263.15, 'Normalize fixed: temperature that becomes 0 [K].', 0.0, 5e3),
    Parameter('aux.high', 323.15, 'Normalize fixed: temperature that becomes 255 [K].', 0.0, 5e3),
    Parameter('aux.low_percentile', 1.0, 'Normalize percentile, clahe: becomes 0 [%].', 0.0, 100.0),
    Parameter('aux.high_percentile', 99.0, 'Normalize percentile, clahe: becomes 255 [%].',
              0.0, 100.0),
    Parameter('aux.smoothing', 0.0, 'Time constant of the percentiles, 0 = none [s].', 0.0, 60.0),
    Parameter('aux.hot_pixels', False, 'Find defect pixels and replace them by their neighbors.'),
    Parameter('aux.false_color', 'convert', 'What to do with a colored thermal image.',
              choices=FALSE_COLOR),
    Parameter('registration.mode', 'none', 'How aux is brought onto the RGB grid.', choices=MODES),
    Parameter('registration.file', '', 'Homography or extrinsics, a YAML file.'),
    Parameter('registration.distance', 5.0, 'Distance of the scene from the cameras [m].',
              0.05, 1e5),
    Parameter('degraded.aux_lost', 'stop', 'What to do without the aux camera.', choices=AUX_LOST),
    Parameter('degraded.rgb_lost', 'stop', 'What to do without the RGB camera.', choices=RGB_LOST),
    Parameter('degraded.timeout', 1.0, 'A camera silent for this long is lost [s].', 0.05, 60.0),
    Parameter('degraded.max_hold', 5.0, 'Policy hold: longest use of the last frame [s].',
              0.0, 600.0),
    Parameter('degraded.frozen_after', 1.0, 'Equal images for this long are a frozen camera [s].',
              0.0, 60.0),
    Parameter('degraded.frozen_is_lost', False, 'Treat a frozen camera as a lost one.'),
    Parameter('diagnostics.stale_after', 2.0, 'A camera silent for this long is STALE [s].',
              0.05, 600.0),
    Parameter('diagnostics.min_rgb_rate', 0.0, 'Below it WARN, 0 = off [Hz].', 0.0, 1e3),
    Parameter('diagnostics.min_aux_rate', 0.0, 'Below it WARN, 0 = off [Hz].', 0.0, 1e3),
    Parameter('diagnostics.warn_latency', 0.2, 'Latency p95 above it is a WARN [s].', 0.0, 60.0),
    Parameter('diagnostics.error_latency', 1.0, 'Latency p95 above it is an ERROR [s].',
              0.0, 60.0),
    Parameter('diagnostics.warn_skew', 0.03, 'Median skew above it is a WARN [s].', 0.0, 10.0),
    Parameter('diagnostics.warn_drops', 0.05, 'Share of frames lost that is a WARN [0..1].',
              0.0, 1.0),
    Parameter('diagnostics.error_drops', 0.5, 'Share of frames lost that is an ERROR [0..1].',
              0.0, 1.0),
    Parameter('diagnostics.warn_memory', 0.0, 'Resident memory above it is a WARN, 0 = off [MB].',
              0.0, 1e6),
    Parameter('score.labels', False, 'Score the masks against the labels on label/image_raw.'),
    Parameter('score.transport', 'raw', 'raw: Image; compressed: CompressedImage (PNG).',
              choices=TRANSPORTS),
    Parameter('confidence.threshold', 0.0, 'Pixels less sure than this become 255 [0..1].',
              0.0, 1.0, read_only=False),
    Parameter('mask.smoothing', 0.0, 'Time constant of the mask, 0 = none [s].', 0.0, 10.0,
              read_only=False),
    Parameter('scene.every', 0, 'Pairs from one run of the scene graph to the next, 0 = as the '
              'bundle says [count].', 0, MAX_SCENE_EVERY, read_only=False),
    Parameter('overlay.alpha', 0.6, 'Opacity of the classes in ~/overlay [0..1].', 0.0, 1.0,
              read_only=False),
)
_BY_NAME = {parameter.name: parameter for parameter in PARAMETERS}


@dataclass(frozen=True)
class PairSettings:
    """What one camera pair reads from the parameters when the node is configured."""

    name: str  # '' without a prefix
    rgb_transport: str
    aux_transport: str
    sync: SyncConfig
    degraded: DegradedConfig
    pipeline: PipelineConfig
    health: HealthConfig
    score: ScoreConfig = ScoreConfig()


@dataclass(frozen=True)
class Settings:
    """What the node reads from its parameters when it is configured."""

    bundle: Path
    backend: str
    warmup: int
    pairs: tuple[PairSettings, ...]
    precision: str = 'auto'
    options: Options = Options()
    classes: tuple[str, ...] = ()  # to find; (): all of the file, or as the bundle says
    classes_file: Path | None = None


def check(name: str, value: Any) -> Value:
    """Return `value` as the type of parameter `name`; whole numbers serve where reals do.

    Raises:
        RgbxSegError: the parameter is unknown, or the value has a wrong type or is out of range.

    """
    parameter = _find(name)
    if parameter is None:
        raise RgbxSegError(_unknown(name))
    default = parameter.default
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if isinstance(value, (tuple, array)):  # rclpy's numbers come as the latter
        value = list(value)
    if isinstance(default, list):
        suits = _are_pair_names if name == 'pairs' else _are_class_names
        good = isinstance(value, list) and suits(value)
    else:
        good = type(value) is type(default)
    if good and parameter.choices:
        good = value in parameter.choices
    if good and parameter.pattern:
        found = re.fullmatch(parameter.pattern[0], value)
        good = found is not None and all(int(side or 1) <= MAX_SIDE for side in found.groups())
    if good and parameter.low is not None and parameter.high is not None:
        good = math.isfinite(value) and parameter.low <= value <= parameter.high
    if not good:
        raise RgbxSegError(f'parameter {name} is {_found(value)}; expected {_expected(parameter)}.')
    return value


def _found(value: Any) -> str:
    """Return a value as a sentence tells it, cut short where it is hundreds of names."""
    text = repr(value)
    if len(text) <= MAX_TOLD:
        return text
    return f'{text[:MAX_TOLD]}…' + (f' ({len(value)} in all)' if hasattr(value, '__len__') else '')


def _find(name: str) -> Parameter | None:
    """Return the parameter that `name` means, be it with the name of a camera pair in front."""
    general = name.partition('.')[2]
    if name not in _BY_NAME and general in _BY_NAME and general not in NODE_WIDE:
        return _BY_NAME[general]
    return _BY_NAME.get(name)


def _are_pair_names(names: list[Any]) -> bool:
    # They become parts of topic names and of parameter names.
    reserved = {name.partition('.')[0] for name in _BY_NAME}
    good = all(isinstance(name, str) and re.fullmatch('[a-z][a-z0-9_]*', name)
               and name not in reserved for name in names)
    return names == [''] or (0 < len(set(names)) == len(names) <= MAX_PAIRS and good)


def _are_class_names(names: list[Any]) -> bool:
    """Return whether these may be names; whether a bundle knows them, its bank tells."""
    return names in ([], ['']) or len(names) <= UNLABELED and all(
        isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.isprintable()
        for name in names)


class Declared:
    """The table as declared on a node, and what is wrong with the values it was started with."""

    def __init__(self, node: Any, describe: Callable[[Parameter], Any]) -> None:
        """Declare the table on an rclpy node; `describe` makes rclpy's descriptors.

        The node must have declared whatever it was given, so that a misspelled name is seen at all
        (automatically_declare_parameters_from_overrides). A refused parameter has its default.
        """
        self._node = node
        self._refused: dict[str, str] = {}
        given = {name: node.get_parameter(name).value
                 for name in node.get_parameters_by_prefix('') if name not in ROS_PARAMETERS}
        values = {parameter.name: parameter.default for parameter in PARAMETERS}
        for name, value in given.items():
            node.undeclare_parameter(name)
            try:
                values[name] = check(name, value)
            except RgbxSegError as error:
                self._refused[name] = str(error)
        self._names = list(values)
        for name, value in values.items():
            node.declare_parameter(name, value, describe(_find(name) or _BY_NAME[name]),
                                   ignore_override=True)

    def settings(self, changes: Mapping[str, Any] | None = None) -> Settings:
        """Return what the node is to run by, or would be after `changes` that it may take.

        Raises RgbxSegError if it was started with a wrong value.
        """
        for sentence in self._refused.values():
            raise RgbxSegError(sentence)
        values = {name: self._node.get_parameter(name).value for name in self._names}
        return read(values | {name: value for name, value in (changes or {}).items()
                              if name in values})

    def value(self, name: str, pair: str) -> Any:
        """Return the present value of a parameter for a camera pair."""
        own = f'{pair}.{name}'
        return self._node.get_parameter(own if own in self._names else name).value

    def change(self, changes: Mapping[str, Any], configured: bool) -> str:
        """Return why the node cannot take `changes`, name -> value; an empty text if it can."""
        reason = why_not(changes, configured)
        for name in () if reason else changes:
            self._refused.pop(name, None)
        return reason


def why_not(changes: Mapping[str, Any], configured: bool) -> str:
    """Return what is wrong with a change of parameters, name -> value, or an empty text."""
    for name, value in changes.items():
        if name in ROS_PARAMETERS:
            continue
        try:
            check(name, value)
        except RgbxSegError as error:
            return str(error)
        parameter = _find(name)
        if configured and parameter is not None and parameter.read_only:
            return (f'parameter {name} cannot change while the node is configured; deactivate and '
                    'clean it up first.')
    return ''


def read(values: Mapping[str, Any]) -> Settings:
    """Return the settings of a complete set of checked values, name -> value."""
    if not values['bundle']:
        raise RgbxSegError('parameter bundle is empty; expected the folder of a bundle: set '
                           'bundle:=DIR in the launch file or -p bundle:=DIR.')
    pairs = tuple(values['pairs'])
    for name in values:
        owner = name.partition('.')[0]
        if name not in _BY_NAME and owner not in pairs:
            raise RgbxSegError(f'parameter {name} is for the camera pair "{owner}", but pairs is '
                               f'{list(pairs)}; add {owner} to pairs or remove it.')
    return Settings(Path(os.path.expanduser(values['bundle'])), values['backend'], values['warmup'],
                    tuple(_read_pair(name, values) for name in pairs), values['precision'],
                    _read_options(values),
                    tuple(name for name in values['classes'] if name),
                    _path(values['classes_file']))


def _read_options(values: Mapping[str, Any]) -> Options:
    file, backend = values['engine.file'], values['backend']
    if file and backend not in WITH_ENGINE_FILES:
        raise RgbxSegError(f'parameter engine.file is {file!r}, but backend is {backend}; expected '
                           f'backend {" or ".join(WITH_ENGINE_FILES)}, which alone run such files: '
                           'set it, or leave engine.file empty.')
    return Options(_read_size(values['engine.rgb_size']), _path(file))


def _path(text: str) -> Path | None:
    return Path(os.path.expanduser(text)) if text else None


def _read_size(text: str) -> Size | None:
    """Return (height, width) of a text WIDTHxHEIGHT, None of an empty one."""
    width, _, height = text.partition('x')
    return (int(height), int(width)) if text else None


def _read_pair(pair: str, values: Mapping[str, Any]) -> PairSettings:
    own = {name: values.get(f'{pair}.{name}', values[name]) for name in _BY_NAME}
    try:
        pipeline = PipelineConfig(_record(AuxConfig, 'aux', own),
                                  _record(RegistrationConfig, 'registration', own))
        return PairSettings(pair, own['rgb.transport'], own['aux.transport'],
                            _record(SyncConfig, 'sync', own),
                            _record(DegradedConfig, 'degraded', own), pipeline,
                            _record(HealthConfig, 'diagnostics', own),
                            _record(ScoreConfig, 'score', own))
    except RgbxSegError as error:
        raise RgbxSegError(f'camera pair {pair}: {error}' if pair else str(error)) from None


def _record(kind: type[Record], group: str, values: Mapping[str, Any]) -> Record:
    """Return a record whose fields are the parameters of `group`; its others keep their default."""
    found = {}
    for field in fields(kind):  # type: ignore[arg-type]
        for unit in UNIT_SUFFIXES:
            name = f'{group}.{field.name.removesuffix(unit)}'
            if field.name.endswith(unit) and name in values:
                found[field.name] = values[name]
    if 'file' in found:
        found['file'] = _path(found['file'])
    return kind(**found)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, _BY_NAME, n=1, cutoff=0.0)[0]
    return (f'parameter {name} is unknown; did you mean {near}? config/segment.yaml lists all '
            f'{len(PARAMETERS)}.')


def _expected(parameter: Parameter) -> str:
    if parameter.choices:
        return 'one of ' + ', '.join(parameter.choices)
    if parameter.pattern:
        return parameter.pattern[1]
    if parameter.name == 'classes':
        return (f'at most {UNLABELED} names of 1..{MAX_NAME} printable characters, or an empty '
                'list')
    if isinstance(parameter.default, list):
        return f'at most {MAX_PAIRS} different names of lower-case letters, digits and _'
    words = {bool: 'true or false', int: 'a whole number', float: 'a number', str: 'a text'}
    bounds = '' if parameter.low is None else f' from {parameter.low} to {parameter.high}'
    return words[type(parameter.default)] + bounds
