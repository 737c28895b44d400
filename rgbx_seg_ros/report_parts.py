# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What the pages of all reports are made of: numbers and names as HTML, pictures as data URLs."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros.report_style import STYLE

Image = NDArray[np.uint8]

MEDIA = {'.jpg': 'jpeg', '.png': 'png'}
PICTURE_WIDTH = 480  # pixels; wider ones are shrunk

# Cause of a drop -> what happened, in words. The harmless ones cost no mask.
LOSSES = {
    'lost_on_wire_rgb': 'RGB frames published by the player that never reached the node',
    'lost_on_wire_aux': 'aux frames published by the player that never reached the node',
    'lost_on_wire_mask': 'masks published by the node that never reached the recorder',
    'lost_on_wire': 'images that the middleware itself reported as lost',
    'replaced': 'pairs replaced by a newer one while the model was busy',
    'unpaired_rgb': 'RGB frames without an aux frame near enough in time',
    'unpaired_aux': 'aux frames without an RGB frame near enough in time',
    'late': 'frames that arrived after their turn',
    'duplicate': 'frames whose stamp had come before',
    'zero_stamp': 'frames with a zero stamp',
    'overflow': 'frames that waited in a full queue for the other camera',
    'backward_jump': 'jumps of the stamps back in time',
    'reset': 'frames discarded because the stamps jumped back',
    'clock_disagreement': 'frames whose stamps lie too far apart although they arrive together',
    'degraded': 'frames of one camera while the other was lost',
    'registration': 'pairs while the registration waited for a calibration',
    'engine': 'pairs on which the engine failed',
}
HARMLESS = {
    'surplus_rgb': 'RGB frames between two aux frames: the faster camera has more than can pair',
    'surplus_aux': 'aux frames between two RGB frames: the faster camera has more than can pair',
    'no_listener': 'pairs while nobody listened',
    'disabled': 'pairs while the node was disabled',
    'lost_beside': 'depth images or camera_info that the middleware reported as lost',
}


def document(title: str, body: str, style: str = '') -> str:
    """Return a whole page; `style` is added to the style sheet of all reports."""
    return ('<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<title>{text(title)}</title><style>{STYLE}{style}</style></head>'
            f'<body><main>{body}</main></body></html>\n')


def tiles(boxes: Iterable[tuple[str, str, str]]) -> str:
    """Return the numbers that one sees first: each a name, a value and a note, all HTML."""
    shown = ''.join(f'<div class="tile"><span>{name}</span><b>{value}</b><i>{note}</i></div>'
                    for name, value, note in boxes)
    return f'<section class="tiles">{shown}</section>'


def picture(image: Image, kind: str, words: str) -> str:
    """Return an image of at most PICTURE_WIDTH as an element, stored as `kind`: .jpg or .png."""
    if image.shape[1] > PICTURE_WIDTH:
        size = (PICTURE_WIDTH, round(image.shape[0] * PICTURE_WIDTH / image.shape[1]))
        # Mixed ids would show colors of classes that are not there.
        method = cv2.INTER_NEAREST if kind == '.png' else cv2.INTER_AREA
        image = cv2.resize(image, size, interpolation=method)
    return f'<img alt="{text(words)}" src="{data(image, kind)}">'


def data(image: Image, kind: str) -> str:
    """Return an image (gray, RGB or RGBA) as a URL that holds it."""
    if image.ndim == 3:
        order = cv2.COLOR_RGB2BGR if image.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
        image = cv2.cvtColor(image, order)
    return url(cv2.imencode(kind, image)[1].tobytes(), f'image/{MEDIA[kind]}')


def url(content: bytes, media: str) -> str:
    """Return a URL that holds `content`."""
    return f'data:{media};base64,{base64.b64encode(content).decode("ascii")}'


def swatch(color: Iterable[int]) -> str:
    """Return a square of a class's color."""
    return f'<span class="swatch" style="background:rgb{tuple(color)}"></span>'


def ms(value: float | None) -> str:
    """Return milliseconds, a dash for None."""
    return '–' if value is None else f'{value:.1f} ms'


def percent(value: float | None) -> str:
    """Return a share in percent, a dash where there is none."""
    return '–' if value is None or not math.isfinite(value) else f'{100 * value:.1f} %'


def text(value: object) -> str:
    """Return any text so that a page shows it as it is."""
    return html.escape(str(value))
