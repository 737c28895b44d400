# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The sweep over k: what it counts, on the first pairs of the sample bag."""

from dataclasses import replace
from pathlib import Path

import pytest
from bundles import write_scene_bundle

from benchmarks.scene_every import read_pairs, sweep
from rgbx_seg_ros.engine import open_engine
from rgbx_seg_ros.manifest import ClassInfo

BAG = Path(__file__).parent.parent / 'sample' / 'bag'
PAIRS = 7


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    engine, manifest = open_engine(write_scene_bundle(tmp_path_factory.mktemp('b') / 'bundle'))
    classes = tuple(ClassInfo(n, f'c{n}', (n, 0, 0)) for n in range(9))  # as many as the bag has
    pairs = read_pairs(BAG, 'thermal')[:PAIRS]
    assert all(pair.label is not None for pair in pairs)
    tallies = sweep(engine, replace(manifest, classes=classes), pairs, [1, 3, 100, 0])
    return {tally.every: tally for tally in tallies}


def test_every_k_runs_the_scene_graph_as_often_as_it_says_and_on_every_pair_the_network(found):
    runs = {k: tally.summary(found[1])['scene_runs'] for k, tally in found.items()}
    assert runs == {1: 7, 3: 3, 100: 1, 0: 7}
    assert all(len(tally.engine_ms) == PAIRS for tally in found.values())


def test_agreement_is_with_the_mask_of_k_1_and_is_whole_where_the_scene_is_new(found):
    assert found[1].agreement == [1.0] * PAIRS
    assert [found[3].agreement[n] for n in (0, 3, 6)] == [1.0] * 3
    assert min(found[0].agreement) < 0.5  # of half of zero, all of the image is more


def test_scores_are_those_of_the_labels_and_saving_that_of_the_time(found):
    assert all(tally.confusion.matrix.sum() == PAIRS * 480 * 640 for tally in found.values())
    spent = [sum(found[k].scene_ms) for k in (1, 3)]
    saved = (spent[0] - spent[1]) / sum(found[1].engine_ms)
    assert found[3].summary(found[1])['saving'] == pytest.approx(saved)
    assert all(0.9 < cosine <= 1.0001 for cosine in found[1].engine.cosines())
