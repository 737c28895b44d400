# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading

import pytest

from rgbx_seg_ros.stages import ReadAhead, Stage


def test_read_ahead_yields_in_order_and_on_another_thread():
    threads = set()

    def source():
        for number in range(100):
            threads.add(threading.current_thread().name)
            yield number

    with ReadAhead(source()) as items:
        assert list(items) == list(range(100))
    assert threads == {'read-ahead'}


def test_read_ahead_is_bounded():
    produced = []
    ready = threading.Event()

    def source():
        for number in range(100):
            produced.append(number)
            if number == 3:
                ready.set()
            yield number

    with ReadAhead(source(), depth=3) as items:
        assert ready.wait(10)
        assert len(produced) == 4  # three in the queue, one at its door
        assert list(items) == list(range(100))


def test_what_the_source_raises_comes_after_what_it_gave():
    def source():
        yield 1
        raise ValueError('broken')

    with pytest.raises(ValueError, match='broken'), ReadAhead(source()) as items:
        seen = []
        for item in items:
            seen.append(item)
    assert seen == [1]


def test_an_abandoned_read_ahead_ends_its_thread():
    def source():
        while True:
            yield 0

    with ReadAhead(source()) as items:
        next(iter(items))
    assert 'read-ahead' not in {thread.name for thread in threading.enumerate()}


def test_a_stage_finishes_everything_that_was_put():
    seen = []
    with Stage(seen.append, 'stage', depth=2) as stage:
        for number in range(50):
            stage.put(number)
    assert seen == list(range(50))


def test_what_the_work_raises_reaches_the_one_who_puts():
    def work(number):
        if number == 3:
            raise ValueError('no 3')

    with pytest.raises(ValueError, match='no 3'), Stage(work, 'stage', depth=1) as stage:
        for number in range(1000):
            stage.put(number)


def test_what_the_work_raises_last_is_raised_at_the_end():
    def work(number):
        raise ValueError('late')

    with pytest.raises(ValueError, match='late'), Stage(work, 'stage') as stage:
        stage.put(1)


def test_after_an_exception_outside_a_stage_leaves_the_rest():
    seen = []
    gate = threading.Event()

    def work(number):
        gate.wait(10)
        seen.append(number)

    with pytest.raises(KeyError), Stage(work, 'stage') as stage:
        for number in range(5):
            stage.put(number)
        threading.Timer(0.05, gate.set).start()
        raise KeyError
    assert len(seen) <= 1
