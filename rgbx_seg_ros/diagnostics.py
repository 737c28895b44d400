# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node's health as diagnostic_msgs."""

from __future__ import annotations

from collections.abc import Iterable

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from rgbx_seg_ros.engine import EngineInfo
from rgbx_seg_ros.health import Status


def to_diagnostics(node: str, engine: EngineInfo | None, stamp: Time,
                   statuses: Iterable[Status]) -> DiagnosticArray:
    """Return one DiagnosticStatus per concern of `node`, which runs on `engine`, if any yet."""
    hardware = f'{engine.backend} {engine.version} {engine.device}' if engine else 'no engine'
    message = DiagnosticArray()
    message.header.stamp = stamp
    message.status = [
        DiagnosticStatus(
            level=bytes([status.level]), name=f'{node}: {status.concern}', message=status.message,
            hardware_id=hardware,
            values=[KeyValue(key=key, value=value) for key, value in status.values.items()])
        for status in statuses]
    return message
