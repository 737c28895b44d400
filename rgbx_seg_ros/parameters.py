# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node's parameters as one table, their validation, and the record the node runs by."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import BACKENDS
from rgbx_seg_ros.sync import ANCHORS, POLICIES, SyncConfig

ROS_PARAMETERS = ('use_sim_time', 'start_type_description_service')  # rclpy's own
TRANSPORTS = ('raw', 'compressed')


@dataclass(frozen=True)
class Parameter:
    """One parameter of the node; `read_only` ones may change only while it is unconfigured."""

    name: str
    default: bool | int | float | str
    description: str  # one sentence, with the unit
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    read_only: bool = True


PARAMETERS = (
    Parameter('bundle', '', 'Folder with model.onnx and manifest.yaml, as rgbx_export writes it.'),
    Parameter('backend', 'auto', 'Inference library; auto takes the first one that works here.',
              choices=('auto', *BACKENDS)),
    Parameter('warmup', 2, 'Inferences on black images before the node is configured [count].',
              0, 100),
    Parameter('autostart', True, 'Configure and activate without a lifecycle manager.'),
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
    Parameter('overlay.alpha', 0.6, 'Opacity of the classes in ~/overlay [0..1].', 0.0, 1.0,
              read_only=False),
)
_BY_NAME = {parameter.name: parameter for parameter in PARAMETERS}


@dataclass(frozen=True)
class Settings:
    """What the node reads from its parameters when it is configured."""

    bundle: Path
    backend: str
    warmup: int
    rgb_transport: str
    aux_transport: str
    sync: SyncConfig


def check(name: str, value: Any) -> bool | int | float | str:
    """Return `value` as the type of parameter `name`; whole numbers serve where reals do.

    Raises:
        RgbxSegError: the parameter is unknown, or the value has a wrong type or is out of range.

    """
    parameter = _BY_NAME.get(name)
    if parameter is None:
        raise RgbxSegError(_unknown(name))
    if isinstance(parameter.default, float) and type(value) is int:
        value = float(value)
    good = type(value) is type(parameter.default)
    if good and parameter.choices:
        good = value in parameter.choices
    if good and parameter.low is not None and parameter.high is not None:
        good = math.isfinite(value) and parameter.low <= value <= parameter.high
    if not good:
        raise RgbxSegError(f'parameter {name} is {value!r}; expected {_expected(parameter)}.')
    return value


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
        for parameter in PARAMETERS:
            node.declare_parameter(parameter.name, values[parameter.name], describe(parameter),
                                   ignore_override=True)

    def settings(self) -> Settings:
        """Return what the node is to run by; RgbxSegError if it was started with a wrong value."""
        for sentence in self._refused.values():
            raise RgbxSegError(sentence)
        return read({p.name: self._node.get_parameter(p.name).value for p in PARAMETERS})

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
        if configured and _BY_NAME[name].read_only:
            return (f'parameter {name} cannot change while the node is configured; deactivate and '
                    'clean it up first.')
    return ''


def read(values: Mapping[str, Any]) -> Settings:
    """Return the settings of a complete set of checked values, name -> value."""
    if not values['bundle']:
        raise RgbxSegError('parameter bundle is empty; expected the folder of a bundle: set '
                           'bundle:=DIR in the launch file or -p bundle:=DIR.')
    times = ('max_skew', 'max_wait', 'max_age', 'rgb_offset', 'aux_offset')
    sync = SyncConfig(policy=values['sync.policy'], anchor=values['sync.anchor'],
                      **{f'{name}_s': values[f'sync.{name}'] for name in times})
    return Settings(Path(values['bundle']).expanduser(), values['backend'], values['warmup'],
                    values['rgb.transport'], values['aux.transport'], sync)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, _BY_NAME, n=1, cutoff=0.0)[0]
    return (f'parameter {name} is unknown; did you mean {near}? config/segment.yaml lists all '
            f'{len(PARAMETERS)}.')


def _expected(parameter: Parameter) -> str:
    if parameter.choices:
        return 'one of ' + ', '.join(parameter.choices)
    words = {bool: 'true or false', int: 'a whole number', float: 'a number', str: 'a text'}
    bounds = '' if parameter.low is None else f' from {parameter.low} to {parameter.high}'
    return words[type(parameter.default)] + bounds
