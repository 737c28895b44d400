# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Which image topics are the RGB camera, the aux camera and the labels, told from their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

# Words of a topic's name that tell what it carries, the surest first.
RGB_WORDS = ('rgb', 'color', 'colour', 'visible', 'vis', 'left', 'image')
LABEL_WORDS = ('label', 'labels', 'gt', 'annotation', 'semantic', 'segmentation', 'mask')
AUX_WORDS = {
    'thermal': ('thermal', 'lwir', 'ir', 'infrared', 'fir', 'tir', 'flir', 'boson', 'lepton',
                'optris', 'seek'),
    'depth': ('depth', 'disparity'),
    'event': ('event', 'events', 'dvs'),
    'polarization': ('polarization', 'polarisation', 'dolp', 'aolp'),
    'lightfield': ('lightfield',),
}
REMEDY = 'name it by --rgb-topic, --aux-topic or --label-topic.'
DERIVED_WORDS = ('overlay', 'preview', 'confidence', 'debug')  # a segmenter's own outputs


class TopicError(Exception):
    """A topic that is missing or could be any of several; one sentence without the bag."""


@dataclass(frozen=True)
class TopicInfo:
    """An image topic: its ROS type, the count of messages, the encoding of the first one."""

    type: str
    count: int
    encoding: str


class Topics(NamedTuple):
    """The topics of a bag that make pairs; `label` is None where the bag has none."""

    rgb: str
    aux: str
    label: str | None


def choose_topics(found: Mapping[str, TopicInfo], modality: str = '', *, rgb: str = '',
                  aux: str = '', label: str | None = '') -> Topics:
    """Return which of the topics make pairs, each as given or told from its name and encoding.

    `modality` narrows the choice of aux; `label` None wants no labels. TopicError, listing what is
    there, where a topic that is given is absent, none fits, or two fit alike.
    """
    if not found:
        raise TopicError('no image topic, expected those of two cameras; choose another bag.')
    asked = [topic for topic in (rgb, aux, label) if topic]
    for given in asked:
        if given not in found:
            raise TopicError(f'no image topic {given}, found {listing(found)}.')
        if asked.count(given) > 1:
            raise TopicError(f'{given} is named twice, expected a topic of its own for rgb, aux '
                             f'and label, found {listing(found)}.')
    raw = _candidates(found)
    labels = {topic for topic in raw if _words(topic) & set(LABEL_WORDS)}
    auxes = {topic for topic in raw - labels if _words(topic) & {w for ws in AUX_WORDS.values()
                                                                 for w in ws}}
    ids = {topic for topic in labels if _holds_ids(found[topic].encoding)}
    wanted = [word for name, words in AUX_WORDS.items() if modality in ('', name)
              for word in words]
    aux_ranks = [[word] for word in wanted] if modality else [wanted]
    if label == '' and ids:
        label = _choose(found, 'label', ids, [[w] for w in LABEL_WORDS])
    return Topics(
        rgb or _choose(found, 'rgb', raw - labels - auxes - {aux, label},
                       [[w] for w in RGB_WORDS]),
        aux or _choose(found, modality or 'aux', auxes - {rgb, label}, aux_ranks),
        label or None)


def listing(found: Mapping[str, TopicInfo]) -> str:
    """Return the topics as part of a sentence."""
    return ', '.join(f'{topic} ({info.count} x {info.encoding or info.type})'
                     for topic, info in found.items()) or 'no image topic'


def _words(topic: str) -> set[str]:
    return set(re.split(r'[^a-z0-9]+', topic.lower()))


def _holds_ids(encoding: str) -> bool:
    return encoding.startswith(('mono', '8UC1', '16UC1', 'png')) and 'jpeg' not in encoding


def _candidates(found: Mapping[str, TopicInfo]) -> set[str]:
    # A bag of our own outputs must not have its masks taken for the truth.
    outputs = {topic.rpartition('/')[0] for topic in found
               if _words(topic.rpartition('/')[2]) & set(DERIVED_WORDS)} - {''}
    return {topic for topic, info in found.items()
            if info.count and topic.rpartition('/')[0] not in outputs
            and not topic.endswith('/compressedDepth')
            and topic.removesuffix('/compressed') not in found.keys() - {topic}}


def _choose(found: Mapping[str, TopicInfo], role: str, topics: set[str],
            ranks: list[list[str]]) -> str:
    for words in ranks:
        fitting = sorted(topic for topic in topics if _words(topic) & set(words))
        if len(fitting) > 1:
            raise TopicError(f'{" and ".join(fitting)} could each be the {role} topic, expected '
                             f'one; {REMEDY}')
        if fitting:
            return fitting[0]
    raise TopicError(f'no topic looks like {role}, found {listing(found)}; {REMEDY}')
