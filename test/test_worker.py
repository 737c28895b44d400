# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0

import threading

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
