# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What an image shows, in words: read from a file, or told of a rendered scene by its layout.

A file of captions has a line of JSON for each image: {"name": "00001D", "caption": "a street …"}.
Where sources share names, "source" names the folder that a line is for (the last part of root).
Captions that differ only in case, blanks or the final period count as one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.config import Source
from rgbx_seg_train.data.rendered import SyntheticDataset
from rgbx_seg_train.data.sample import Image, Sample, Samples
from rgbx_seg_train.data.sources import innermost
from rgbx_seg_train.data.synthetic import CLASSES, STREAMS
from rgbx_seg_train.data.synthetic_materials import Weather, draw_weather

MAX_CHARACTERS, MAX_BYTES = 2000, 1 << 30
NOUNS = {'car': 'car', 'person': 'person', 'bike': 'bike', 'curve': 'curb',
         'car_stop': 'wheel stop', 'guardrail': 'guardrail', 'color_cone': 'traffic cone',
         'bump': 'speed bump'}  # what people call the classes of MFNet
PLURALS = {'person': 'people'}
NUMBERS = ('a', 'two', 'three', 'four')
MANY = 'several'
MIN_SHARE = 3e-4  # of the image: smaller parts of a class are not told
NEAR_SHARE, FAR_SHARE = 0.03, 0.003  # of the image: a class with more is near, with less far

_Key = tuple[str, str]  # source or '', name of the image


def clean(text: str) -> str:
    """Return a text on one line with single blanks."""
    return ' '.join(text.split())


def same_caption(text: str) -> str:
    """Return what two captions share if they count as one."""
    return clean(text).rstrip('.').rstrip().casefold()


def source_name(source: Source) -> str:
    """Return the name that a source has in a file of captions."""
    root = getattr(source, 'root', '')
    return Path(root).resolve().name if root else source.kind


def read_lines_of_json(path: Path) -> list[Mapping[str, Any]]:
    """Return the lines of a file as mappings; RgbxSegError names the first that is none."""
    if not path.is_file():
        raise RgbxSegError(f'{path}: no such file; expected a line {{"name": …, "caption": …}} '
                           'for each image; `rgbx_caption` writes one.')
    if path.stat().st_size > MAX_BYTES:
        raise RgbxSegError(f'{path}: larger than {MAX_BYTES} bytes; expected captions; correct '
                           'pretrain.captions.')
    lines = []
    for number, text in enumerate(path.read_text('utf-8', 'replace').splitlines(), 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if not isinstance(line, dict):
            raise RgbxSegError(f'{path}: line {number} is "{text[:40]}"; expected a mapping in '
                               'JSON; correct the line.')
        lines.append(line)
    return lines


def read_captions(path: Path) -> dict[_Key, str]:
    """Return the captions of a file by source and name; a line without a source has ''."""
    captions: dict[_Key, str] = {}
    for line in read_lines_of_json(path):
        name, caption, source = (line.get(key, '') for key in ('name', 'caption', 'source'))
        if not all(isinstance(text, str) for text in (name, caption, source)) or not name:
            raise RgbxSegError(f'{path}: a line is {str(line)[:60]}; expected texts for name and '
                               'caption; correct the line.')
        caption = clean(caption)
        if not 0 < len(caption) <= MAX_CHARACTERS:
            raise RgbxSegError(f'{path}: the caption of {name} has {len(caption)} characters; '
                               f'expected 1..{MAX_CHARACTERS}; correct the line.')
        if captions.setdefault((source, name), caption) != caption:
            raise RgbxSegError(f'{path}: {name} has two captions; expected one, or "source" in '
                               'both lines; remove one.')
    return captions


@dataclass(frozen=True)
class CaptionTable:
    """Captions of several sets: `texts` holds each once, `ids[set][sample]` says which."""

    texts: tuple[str, ...]
    ids: tuple[NDArray[np.int64], ...]


def caption_table(sources: Sequence[Source], sets: Sequence[Samples], file: str) -> CaptionTable:
    """Return the caption of every sample: the file's, or for rendered scenes their own.

    Raises:
        RgbxSegError: some samples have none, or two folders of one name could be confused.

    """
    captions = read_captions(Path(file)) if file else {}
    refuse_confusion(sources)
    known: dict[str, int] = {}
    texts: list[str] = []
    ids, missing = [], []
    for source, samples in zip(sources, sets, strict=True):
        own = source_name(source)
        row = np.zeros(len(samples), np.int64)
        for n, name in enumerate(sample_names(samples)):
            caption = captions.get((own, name)) or captions.get(('', name))
            if caption is None and isinstance(innermost(samples), SyntheticDataset):
                caption = scene_caption(innermost(samples)[n])
            if caption is None:
                missing.append(f'{own}/{name}')
                continue
            row[n] = known.setdefault(same_caption(caption), len(texts))
            if row[n] == len(texts):
                texts.append(caption)
        ids.append(row)
    if missing:
        raise RgbxSegError(f'{file or "pretrain.captions"}: no caption for {len(missing)} images '
                           f'(such as {missing[0]}); expected one for each; let `rgbx_caption` '
                           'write them, or add the lines.')
    return CaptionTable(tuple(texts), tuple(ids))


def refuse_confusion(sources: Sequence[Source]) -> None:
    """Raise RgbxSegError if two folders have one name, as the captions tell sources by it."""
    folders: dict[str, Path] = {}
    for source in sources:
        if root := getattr(source, 'root', ''):
            path = Path(root).resolve()
            if folders.setdefault(path.name, path) != path:
                raise RgbxSegError(f'{path} and {folders[path.name]} are both named {path.name}; '
                                   'expected names that tell the captions of sources apart; '
                                   'rename one.')


def sample_names(samples: Samples) -> list[str]:
    """Return the names of all samples, without loading images."""
    inner = innermost(samples)
    if isinstance(inner, SyntheticDataset):
        first = inner.settings.first_seed
        return [f'{first + n:08d}' for n in range(len(inner))]
    return [entry.name for entry in inner.entries]


def scene_caption(sample: Sample) -> str:
    """Return what a rendered scene shows: time, weather, and what stands where, from its label."""
    weather = scene_weather(int(sample.name), sample.night)
    sky = ('foggy' if weather.fog > 0.005 else 'overcast' if weather.cloud > 0.7
           else 'cloudy' if weather.cloud > 0.3 else 'clear')
    road = 'wet' if weather.wet else 'dry'
    things = [phrase for info in CLASSES[1:]
              if (phrase := _phrase(sample.label == info.id, NOUNS[info.name]))]
    shown = f' with {_listed(things)}' if things else ''
    time = 'night' if sample.night else 'day'
    lights = ' in headlights' if weather.headlights else ''
    return f'a {road} road{lights} on {"an" if sky == "overcast" else "a"} {sky} {time}{shown}'


def scene_weather(seed: int, night: bool) -> Weather:
    """Return the weather of the scene of a seed, without laying out the scene."""
    rng = np.random.Generator(np.random.SFC64([seed, STREAMS['weather']]))
    rng.random()  # would have decided between day and night
    return draw_weather(rng, night)


def _phrase(mask: Image, noun: str) -> str:
    """Return how many there are of a class, and whether near or far; '' if none."""
    total = mask.size
    parts = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)[2][1:]
    areas = parts[:, cv2.CC_STAT_AREA]
    areas = areas[areas >= max(MIN_SHARE * total, 2)]
    if not areas.size:
        return ''
    share = areas.sum() / total
    where = ' nearby' if share > NEAR_SHARE else ' far away' if share < FAR_SHARE else ''
    if areas.size == 1:
        return f'a {noun}{where}'
    number = NUMBERS[areas.size - 1] if areas.size <= len(NUMBERS) else MANY
    return f'{number} {PLURALS.get(noun, noun + "s")}{where}'


def _listed(things: Sequence[str]) -> str:
    return things[0] if len(things) == 1 else f'{", ".join(things[:-1])} and {things[-1]}'
