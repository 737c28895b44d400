# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The names of the label sets on which open-vocabulary models are tested (LMSeg, CAT-Seg).

ADE20K's 150 and 847 classes, PASCAL-Context's 59 and 459, PASCAL VOC's 20. In VOC-20b the pixels of
no class of VOC count as one background: CAT-Seg (cvlab-kaist/CAT-Seg @ 6d3a188) names the other
classes of PASCAL-Context for it, from the 20th name on. Names are those of the data sets in the
order of their ids, as CAT-Seg spells them; a name may be several words for one thing. There can be
more of them than a mask has ids, so these are names, not classes of a network.
"""

from __future__ import annotations

import functools
import json
from importlib import resources

from rgbx_seg_ros import RgbxSegError

OPEN_SETS = ('ade150', 'ade847', 'pc59', 'pc459', 'voc20', 'voc20b')
BACKGROUND_FROM = {'voc20b': 20}  # number of the first name that counts as background


def open_set(name: str) -> tuple[str, ...]:
    """Return the names of a label set; RgbxSegError lists the sets there are."""
    if name not in OPEN_SETS:
        raise RgbxSegError(f'label set {name!r}: unknown; expected one of {", ".join(OPEN_SETS)}; '
                           'correct the name.')
    return _all_sets()[name]


@functools.cache
def _all_sets() -> dict[str, tuple[str, ...]]:
    text = (resources.files('rgbx_seg_train.data') / 'open_sets.json').read_text(encoding='utf-8')
    return {name: tuple(names) for name, names in json.loads(text).items()}


def short_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return "car" of "car, auto, motorcar": as many words as no other of the names begins with."""
    words = [name.split(', ') for name in names]
    begins: dict[tuple[str, ...], int] = {}
    for own in words:
        for count in range(1, len(own) + 1):
            begins[tuple(own[:count])] = begins.get(tuple(own[:count]), 0) + 1
    return tuple(', '.join(next((own[:count] for count in range(1, len(own))
                                 if begins[tuple(own[:count])] == 1), own)) for own in words)
