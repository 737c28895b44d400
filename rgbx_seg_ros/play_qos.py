# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Which QoS a player offers: as recorded, or as the user says in the words of `ros2 bag play`.

Where the publishers of a topic differed, the strongest of their offers serves every subscriber.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.bag import NS, Channel

# Policy -> its values, the weakest first; others (unknown, system_default) say nothing.
VALUES = {'reliability': ('best_effort', 'reliable'),
          'durability': ('volatile', 'transient_local'),
          'liveliness': ('automatic', 'manual_by_topic'),
          'history': ('keep_last', 'keep_all')}
TIMES = ('deadline', 'lifespan', 'liveliness_lease_duration')
DEFAULT: dict[str, Any] = {'reliability': 'reliable', 'durability': 'volatile',
                           'liveliness': 'automatic', 'history': 'keep_last', 'depth': 10,
                           **dict.fromkeys(TIMES, 0)}
FOREVER_NS = (2**31 - 1) * NS  # from here on a time means "none", in the notation of some recorders
MAX_DEPTH, LATCHED_DEPTH = 10_000, 100

Offer = Mapping[str, Any]  # all policies of DEFAULT, times in nanoseconds, 0 = none


def recorded_offer(channel: Channel) -> dict[str, Any]:
    """Return the strongest QoS among those that the recorded publishers offered."""
    offer = dict(DEFAULT)
    for policy in ('reliability', 'durability', 'liveliness'):
        told = [getattr(qos, policy).name.lower() for qos in channel.qos]
        known = [VALUES[policy].index(value) for value in told if value in VALUES[policy]]
        if known:
            offer[policy] = VALUES[policy][max(known)]
    for policy in TIMES:
        times = [sec * NS + nsec for sec, nsec in (getattr(qos, policy) for qos in channel.qos)]
        limits = [limit if 0 < limit < FOREVER_NS else 0 for limit in times]
        if policy == 'lifespan':
            offer[policy] = max(limits, default=0) if all(limits) else 0
        else:
            offer[policy] = min(filter(None, limits), default=0)
    depths = [offer['depth'], *(qos.depth for qos in channel.qos)]
    if offer['durability'] == 'transient_local':
        # Latched by several publishers, of which each kept its own: one keeps all of theirs.
        depths.append(min(channel.messages, LATCHED_DEPTH))
    offer['depth'] = min(max(depths), MAX_DEPTH)
    return offer


def read_overrides(path: Path) -> dict[str, dict[str, Any]]:
    """Return the policies by topic that a YAML file gives, as `ros2 bag play` takes it.

    Raises:
        RgbxSegError: the file holds something else.

    """
    try:
        content = yaml.safe_load(path.read_text('utf-8'))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = ' '.join(str(error).split())
        raise RgbxSegError(f'{path}: no YAML ({reason}); expected topics with policies.') from None
    if not isinstance(content, dict) or not all(
            isinstance(part, dict) for part in content.values()):
        raise RgbxSegError(f'{path}: holds no policies by topic; expected lines such as '
                           '"/tf_static: {durability: transient_local}".')
    return {str(topic): {policy: _value(f'{path}: {topic}: {policy}', policy, value)
                         for policy, value in part.items()
                         if policy != 'avoid_ros_namespace_conventions'}
            for topic, part in content.items()}


def _value(place: str, policy: str, value: Any) -> Any:
    """Return a policy's value as an Offer holds it."""
    if policy in VALUES:
        if value in VALUES[policy]:
            return value
        raise RgbxSegError(f'{place} is {value!r}; expected {" or ".join(VALUES[policy])}.')
    if policy == 'depth':
        if type(value) is int and 1 <= value <= MAX_DEPTH:
            return value
        raise RgbxSegError(f'{place} is {value!r}; expected a count from 1 to {MAX_DEPTH}.')
    if policy not in TIMES:
        raise RgbxSegError(f'{place} is no policy; expected one of {", ".join(DEFAULT)}.')
    parts = [value.get(unit, 0) for unit in ('sec', 'nsec')] if isinstance(value, dict) else []
    if len(parts) == 2 and all(type(part) is int and part >= 0 for part in parts):
        duration = parts[0] * NS + parts[1]
        return duration if duration < FOREVER_NS else 0
    raise RgbxSegError(f'{place} is {value!r}; expected a time such as {{sec: 1, nsec: 0}}.')
