# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Texts as bytes."""

from __future__ import annotations

import pytest

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.byte_text import BEGIN, END, VOCABULARY, encode


def test_a_text_can_be_read_back_from_its_ids() -> None:
    for text in ('car stop', '', 'Fußgänger'):
        ids = encode(text, 77)
        assert ids[0] == BEGIN and ids[-1] == END and max(ids) < VOCABULARY
        assert bytes(ids[1:-1]).decode() == text


def test_a_text_that_is_too_long_is_refused_and_never_cut() -> None:
    assert len(encode('a' * 6, 8)) == 8
    with pytest.raises(RgbxSegError, match='takes 9 tokens; expected at most 8'):
        encode('a' * 7, 8)
