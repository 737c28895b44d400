# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What of a bag is played, under which names and with which QoS, and when; no ROS in here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.bag import CDR, COMPRESSED, IMAGE, NS, Channel, read_channels, read_span
from rgbx_seg_ros.play_qos import Offer, recorded_offer

CLOCK = '/clock'
NAME = re.compile(r'(/[A-Za-z_]\w*)+', re.ASCII)
END, DEPTH_END = '/compressed', '/compressedDepth'  # the latter has a header of its own
SENSIBLE_DELAY_NS = NS  # from capture to recorder; beyond, the clocks are unrelated


@dataclass(frozen=True)
class PlayOptions:
    """What the user wants of a bag; names and times as `ros2 bag play` has them."""

    topics: Sequence[str] = ()  # none: all
    exclude: Sequence[str] = ()
    remap: Mapping[str, str] = field(default_factory=dict)
    start_offset_s: float = 0.0
    duration_s: float | None = None
    reliability: str = 'recorded'  # or reliable, or best_effort
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by topic
    decompress: bool = False
    clock: bool = False  # a recorded /clock would contradict the player's


class Track(NamedTuple):
    """A topic of the bag as it is played."""

    topic: str
    name: str
    type: str  # as it is published
    offer: Offer
    decompress: bool
    fields: tuple[str, ...] | None  # of the type when it was recorded; None where nobody knows

    @property
    def latched(self) -> bool:
        """Whether late subscribers get what was published before."""
        return bool(self.offer['durability'] == 'transient_local')


class Plan(NamedTuple):
    """What is played of which bag; times of reception in nanoseconds, both ends included."""

    bag: Path
    tracks: tuple[Track, ...]
    left_out: dict[str, str]  # topic -> why
    bag_start_ns: int
    start_ns: int
    stop_ns: int

    @property
    def duration_s(self) -> float:
        """How long one pass takes at rate 1."""
        return (self.stop_ns - self.start_ns) / NS


class LiveClock(NamedTuple):
    """Where the bag's time lies on the clock of the machine; times in nanoseconds."""

    first_ns: int  # of the bag: a reception
    began_ns: int  # of the machine: when what was received then is due
    rate: float = 1.0
    bias_ns: int = 0  # added to stamps so that they are of the recorder's clock

    def publish_ns(self, received_ns: int) -> int:
        """Return when a message is due that the recorder received at `received_ns`."""
        return self.began_ns + self._scaled(received_ns - self.first_ns)

    def stamp_ns(self, stamp_ns: int) -> int:
        """Return the stamp that a message gets; at rate 1 all are shifted by one constant."""
        if stamp_ns <= 0:  # a fault of the bag that the node shall see
            return stamp_ns
        return self.began_ns + self._scaled(stamp_ns + self.bias_ns - self.first_ns)

    def bag_ns(self, now_ns: int) -> int:
        """Return which time of the bag it is at `now_ns` of the machine."""
        return self.first_ns + round((now_ns - self.began_ns) * self.rate)

    @property
    def shift_s(self) -> float:
        """What is added to the stamp of a message taken at `first_ns`, in seconds."""
        return (self.began_ns + self.bias_ns - self.first_ns) / NS

    def _scaled(self, duration_ns: int) -> int:
        return duration_ns if self.rate == 1 else round(duration_ns / self.rate)


def stamp_bias(delays_ns: Iterable[int]) -> int:
    """Return a LiveClock's bias for these delays, each from a header's stamp to the reception.

    It is 0 where the recorder and the stamps have one clock.
    """
    delay = min(delays_ns, default=0)
    return 0 if 0 <= delay <= SENSIBLE_DELAY_NS else delay


def plan_playing(bag: Path, options: PlayOptions) -> Plan:
    """Return what is played of a bag.

    Raises:
        RgbxSegError: the bag cannot be read, or has nothing of what is asked for.

    """
    channels = sorted(read_channels(bag))
    first_ns, last_ns = read_span(bag)
    names = {channel.topic for channel in channels}
    for given in (*options.topics, *options.exclude, *options.remap):
        if given not in names and f'{given}{END}' not in names:
            raise RgbxSegError(f'{bag}: no topic {given}, found {", ".join(sorted(names))}.')
    start_ns = first_ns + round(options.start_offset_s * NS)
    if start_ns > last_ns:
        raise RgbxSegError(f'{bag}: the start offset is {options.start_offset_s:g} s, expected '
                           f'less than the {(last_ns - first_ns) / NS:.1f} s that the bag lasts.')
    if options.duration_s is not None:
        last_ns = min(last_ns, start_ns + round(options.duration_s * NS))
    chosen, excluded = ({given if given in names else f'{given}{END}' for given in asked}
                        for asked in (options.topics, options.exclude))
    wanted = [channel.topic for channel in channels
              if channel.topic not in excluded and (not chosen or channel.topic in chosen)]
    left_out: dict[str, str] = {}
    tracks = []
    for channel in channels:
        topic = channel.topic
        if topic not in wanted:
            continue
        if options.clock and topic == CLOCK:
            left_out[topic] = 'the time comes from --clock'
        elif wanted.count(topic) > 1:
            left_out[topic] = 'recorded with more than one type'
        elif channel.serialization != CDR:
            left_out[topic] = f'serialized as {channel.serialization}'
        else:
            tracks.append(_track(channel, wanted, options))
    return Plan(bag, tuple(tracks), left_out, first_ns, start_ns, last_ns)


def _track(channel: Channel, wanted: Sequence[str], options: PlayOptions) -> Track:
    name, kind = channel.topic, channel.type
    raw = name.removesuffix(END)
    # Where the raw images are played, too, the compressed ones stay what they are.
    decompress = (options.decompress and kind == COMPRESSED and not name.endswith(DEPTH_END)
                  and (raw == name or raw not in wanted))
    if decompress:
        name, kind = raw, IMAGE
    name = options.remap.get(channel.topic, options.remap.get(name, name))
    offer = recorded_offer(channel)
    if options.reliability != 'recorded':
        offer['reliability'] = options.reliability
    offer.update(options.overrides.get(channel.topic, {}))
    fields = None if decompress else recorded_fields(channel.definition)
    return Track(channel.topic, name, kind, offer, decompress, fields)


def recorded_fields(definition: str) -> tuple[str, ...] | None:
    """Return the names of a type's own fields by its .msg text; None of .idl, or of no text."""
    own = definition.partition('=' * 80)[0]
    if not own.strip() or own.startswith('module') or 'IDL: ' in definition:
        return None
    lines = (line.partition('#')[0].split() for line in own.splitlines())
    # A constant is TYPE NAME=VALUE, with or without spaces; a field may have a default after it.
    return tuple(words[1] for words in lines if len(words) > 1 and '=' not in words[1]
                 and words[2:3] != ['='] and not ''.join(words[2:]).startswith('='))


def parse_remaps(rules: Iterable[str]) -> dict[str, str]:
    """Return the topics of rules such as /from:=/to; RgbxSegError of what is none."""
    remap: dict[str, str] = {}
    for rule in rules:
        source, separator, target = rule.partition(':=')
        if not (separator and NAME.fullmatch(source) and NAME.fullmatch(target)):
            raise RgbxSegError(f'the rule {rule!r} remaps nothing; expected /from:=/to, both with '
                               'a leading slash.')
        remap[source] = target
    return remap
