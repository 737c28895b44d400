# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The recording of other classes while the node runs, with a bag and a bundle of kilobytes."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
from bundles import write_tiny_bundle

pytest.importorskip('rgbx_seg.msg', reason='the ROS package is not built; run `make ros`')

from test_demo import write_bag

from demo import classes
from rgbx_seg_ros import RgbxSegError

ROOT = Path(__file__).resolve().parents[1]


def demo(*arguments):
    return subprocess.run([sys.executable, '-m', 'demo.classes', *map(str, arguments)], cwd=ROOT,
                          capture_output=True, text=True, timeout=120, check=False)


def test_changes_and_refusals_are_recorded_with_pictures_and_times(tmp_path):
    bag = write_bag(tmp_path / 'bag')
    bundle = write_tiny_bundle(tmp_path / 'bundle', vocabulary=3)
    (tmp_path / 'own.yaml').write_text('classes: [car, {name: human, class: person}]')
    run = demo('--bag', bag, '--bundle', bundle, '--out', tmp_path / 'out', '--then', 'dog,road',
               '--then', 'persn', '--then', tmp_path / 'own.yaml')
    assert run.returncode == 0, run.stdout + run.stderr
    changes = json.loads((tmp_path / 'out' / 'changes.json').read_text())
    assert [(change['version'], change['classes']) for change in changes] == [
        (0, ['unlabeled', 'car', 'person']), (1, ['dog', 'road']), (1, ['dog', 'road']),
        (2, ['car', 'human'])]
    assert [bool(change['refused']) for change in changes] == [False, False, True, False]
    assert "the nearest is 'person'" in changes[2]['refused']
    for change in (changes[1], changes[3]):
        assert change['masks'] and 0 < change['before_ns'] < change['after_ns']
        assert change['took_ms'] > 0
    strip = cv2.imread(str(tmp_path / 'out' / 'strip.png'))
    assert strip.shape[1] > 600 and strip.shape[0] > 700
    assert 'the classes are now car, human (change 2)' in (tmp_path / 'out/node.log').read_text()


def test_a_bundle_of_fixed_classes_and_a_folder_of_others_are_refused(tmp_path):
    bundle, out = write_tiny_bundle(tmp_path / 'fixed'), tmp_path / 'out'
    arguments = ('--bag', tmp_path, '--then', 'car', '--out', out, '--bundle')
    run = demo(*arguments, bundle)
    assert run.returncode == 1 and 'its 3 classes are fixed; expected one with' in run.stderr
    out.mkdir()
    (out / 'thesis.tex').write_text('')
    run = demo(*arguments, write_tiny_bundle(tmp_path / 'open', vocabulary=3))
    assert run.returncode == 1 and 'is nothing of this command' in run.stderr


def test_an_answer_that_does_not_come_is_no_refusal(monkeypatch):
    class Deaf:
        """A node whose services take requests and never answer."""

        def create_client(self, kind, name):
            return self

        def wait_for_service(self, timeout):
            return True

        def call_async(self, request):
            return Future()

    monkeypatch.setattr(classes, 'ANSWER_S', 0.05)
    changes = [classes.Change('dog'), classes.Change('car')]
    recorder = SimpleNamespace(stats=[SimpleNamespace(classes_version=0)])
    with pytest.raises(RgbxSegError, match='not answered in .* whether it takes dog; expected'), (
            classes.Asker(changes, 0.0).beside(Deaf(), recorder, '/segment')):
        pass
    assert not any(change.refused for change in changes)
