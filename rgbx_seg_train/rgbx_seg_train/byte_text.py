# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Texts as their UTF-8 bytes, for text models that are trained from scratch.

The tokenizer of a published text model comes with its weights; small models of our own need none.
"""

from __future__ import annotations

from rgbx_seg_ros import RgbxSegError

BEGIN, END = 256, 257  # after the 256 bytes; CLIP's own tower finds a text's end by its highest id
VOCABULARY = 258


def encode(text: str, longest: int) -> list[int]:
    """Return the ids 0..257 of a text between `BEGIN` and `END`.

    Raises:
        RgbxSegError: the text takes more than `longest` ids.

    """
    ids = [BEGIN, *text.encode(), END]
    if len(ids) > longest:
        raise RgbxSegError(f'"{text[:40]}" takes {len(ids)} tokens; expected at most {longest}; '
                           'shorten it or choose a shorter mode of text.')
    return ids
