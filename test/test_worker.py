# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0

import threading
import time

import pytest

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.parameters import PARAMETERS, read
from rgbx_seg_ros.worker import Worker, open_segmenter


def test_newest_item_replaces_the_one_that_waits():
    started, go_on, done = threading.Event(), threading.Event(), []

    def work(item):
        started.set()
        go_on.wait(5)
        done.append(item)

    worker = Worker(work)
    replaced = [worker.offer(1)]
    assert started.wait(5)
    replaced += [worker.offer(item) for item in (2, 3, 4)]
    go_on.set()
    worker.call(int)
    assert replaced == [False, False, True, True]
    assert done == [1, 4]
    worker.stop()

def test_sources_are_served_in_turn_however_fast_one_of_them_is():
    started, go_on, done = threading.Event(), threading.Event(), []

    def work(item):
        started.set()
        go_on.wait(5)
        done.append(item)

    worker = Worker(work)
    worker.offer('busy 0', 'busy')
    assert started.wait(5)
    replaced = [worker.offer(f'busy {n}', 'busy') for n in range(1, 5)]
    replaced += [worker.offer('quiet 1', 'quiet'), worker.offer('busy 5', 'busy')]
    go_on.set()
    worker.call(int)
    assert replaced == [False, True, True, True, False, True]
    assert done == ['busy 0', 'busy 5', 'quiet 1']
    worker.stop()


def test_stop_gives_up_on_a_thread_that_does_not_end():
    release = threading.Event()
    worker = Worker(lambda item: release.wait(20))
    worker.offer(1)
    began = time.monotonic()
    assert not worker.stop(0.2)
    assert time.monotonic() - began < 5
    release.set()
    idle = Worker(print)
    assert idle.stop(5)


def test_call_gives_up_when_the_result_is_no_longer_wanted():
    release = threading.Event()
    worker = Worker(print)
    with pytest.raises(KeyboardInterrupt):
        worker.call(release.wait, 20, wanted=lambda: False)
    release.set()
    worker.stop()


def test_call_passes_on_the_timeout_error_of_the_function():
    def fail():
        raise TimeoutError('of its own')

    worker = Worker(print)
    with pytest.raises(TimeoutError, match='of its own'):
        worker.call(fail)
    worker.stop()



def test_drain_forgets_what_waits_and_finishes_what_runs():
    started, go_on, done = threading.Event(), threading.Event(), []

    def work(item):
        started.set()
        go_on.wait(5)
        done.append(item)

    worker = Worker(work)
    worker.offer(1)
    assert started.wait(5)
    worker.offer(2)
    threading.Timer(0.1, go_on.set).start()
    worker.drain()
    assert done == [1]
    worker.offer(3)
    worker.call(int)
    assert done == [1, 3]
    worker.stop()


def test_everything_runs_on_one_thread_that_ends():
    names = []
    worker = Worker(lambda _: names.append(threading.get_ident()))
    names.append(worker.call(threading.get_ident))
    for item in range(20):
        worker.offer(item)
    worker.drain()
    before = threading.active_count()
    worker.stop()
    assert len(set(names)) == 1 and names[0] != threading.get_ident()
    assert threading.active_count() == before - 1


def test_call_raises_what_the_function_raises():
    worker = Worker(print)
    values = {parameter.name: parameter.default for parameter in PARAMETERS}
    with pytest.raises(RgbxSegError, match='no such folder'):
        worker.call(open_segmenter, read(values | {'bundle': '/nowhere'}))
    worker.stop()
