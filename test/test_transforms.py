# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The static tf tree: laws of composition on random trees, and poses against plain arithmetic."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.camera import Transform
from rgbx_seg_ros.transforms import Transforms

IDENTITY = (0, 0, 0, 1)
HALF = np.sqrt(0.5)

poses = st.tuples(st.tuples(*[st.floats(-10, 10)] * 3), st.tuples(*[st.floats(-1, 1)] * 4)).filter(
    lambda pose: np.linalg.norm(pose[1]) > 0.1)


@st.composite
def trees(draw):
    """Return the edges of a random tree of frames '0', '1', …, in a random order."""
    edges = [(str(draw(st.integers(0, n - 1))), str(n), *draw(poses))
             for n in range(1, draw(st.integers(3, 8)))]
    return draw(st.permutations(edges))


def matrix(translation, quaternion):
    """Return the pose as a matrix 4x4, by rotating the axes with q v q*."""
    q = np.array(quaternion) / np.linalg.norm(quaternion)
    axis, w = q[:3], q[3]
    columns = [v + 2 * np.cross(axis, np.cross(axis, v) + w * v) for v in np.eye(3)]
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = np.array(columns).T, translation
    return result


def as_matrix(motion):
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = motion.rotation, motion.translation
    return result


@settings(max_examples=50, deadline=None)
@given(trees(), st.data())
def test_lookup_is_the_product_along_the_tree(edges, data):
    tree = Transforms()
    in_root = {'0': np.eye(4)}
    for parent, child, translation, quaternion in edges:
        tree.add(parent, child, translation, quaternion)
    for parent, child, translation, quaternion in sorted(edges, key=lambda edge: int(edge[1])):
        in_root[child] = in_root[parent] @ matrix(translation, quaternion)
    a, b, c = (data.draw(st.sampled_from(sorted(in_root))) for _ in range(3))
    expected = np.linalg.inv(in_root[a]) @ in_root[c]
    np.testing.assert_allclose(as_matrix(tree.lookup(a, c)), expected, atol=1e-6)
    np.testing.assert_allclose(as_matrix(tree.lookup(a, b) @ tree.lookup(b, c)), expected,
                               atol=1e-6)
    np.testing.assert_allclose(as_matrix(tree.lookup(c, a).inverse()), expected, atol=1e-6)


def test_child_pose_moves_points_into_the_parent():
    tree = Transforms()
    tree.add('base', 'camera', (1, 2, 3), (0, 0, HALF, HALF))  # a quarter turn about z
    motion = tree.lookup('base', 'camera')
    np.testing.assert_allclose(motion.rotation @ (1, 0, 0) + motion.translation, [1, 3, 3])


def test_leading_slashes_name_the_same_frame():
    tree = Transforms()
    tree.add('/base', 'rgb', (1, 0, 0), IDENTITY)
    tree.add('base', '/aux', (0, 1, 0), IDENTITY)
    assert tree.lookup('/rgb', 'aux').translation.tolist() == [-1, 1, 0]


def test_unknown_and_unconnected_frames_have_no_transform():
    tree = Transforms()
    assert tree.lookup('rgb', 'aux') is None
    assert tree.lookup('', '') is None
    tree.add('base', 'rgb', (1, 0, 0), IDENTITY)
    tree.add('map', 'aux', (1, 0, 0), IDENTITY)
    assert tree.lookup('rgb', 'aux') is None
    assert tree.lookup('rgb', 'nowhere') is None
    assert tree.lookup('rgb', 'rgb') == Transform(np.eye(3), (0, 0, 0))


def test_a_child_told_again_moves():
    tree = Transforms()
    tree.add('base', 'rgb', (1, 0, 0), IDENTITY)
    tree.add('base', 'aux', (0, 0, 0), IDENTITY)
    tree.add('base', 'rgb', (5, 0, 0), IDENTITY)
    assert tree.lookup('aux', 'rgb').translation.tolist() == [5, 0, 0]
    tree.add('mast', 'rgb', (7, 0, 0), IDENTITY)
    assert tree.lookup('aux', 'rgb') is None
    assert tree.lookup('mast', 'rgb').translation.tolist() == [7, 0, 0]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from('abcd'), st.sampled_from('abcd')), max_size=30))
def test_contradicting_publishers_end_in_some_tree_or_loop_but_never_hang(edges):
    tree = Transforms()
    for parent, child in edges:
        if parent != child:
            tree.add(parent, child, (0, 0, 1), IDENTITY)
            assert tree.lookup(parent, child).translation.tolist() == [0, 0, 1]
    for target in 'abcd':
        for source in 'abcd':
            tree.lookup(target, source)


@pytest.mark.parametrize('edge, words', [
    (('base', 'base', (0, 0, 0), IDENTITY), 'two frames with different names'),
    (('', 'rgb', (0, 0, 0), IDENTITY), 'two frames with different names'),
    (('base', '/', (0, 0, 0), IDENTITY), 'two frames with different names'),
    (('base', 'rgb', (0, 0, 0), (0, 0, 0, 0)), 'from base to rgb: quaternion is .*expected one of'),
    (('base', 'rgb', (0, 0, np.nan), IDENTITY), 'from base to rgb: translation is'),
])
def test_what_is_no_pose_is_refused_in_a_sentence(edge, words):
    tree = Transforms()
    with pytest.raises(RgbxSegError, match=words):
        tree.add(*edge)
    assert tree.lookup('base', 'rgb') is None


def test_huge_numbers_are_scaled_or_refused_and_leave_the_tree_as_it_was():
    tree = Transforms()
    tree.add('a', 'b', (0, 0, 0), (1e308, -1e308, 1e308, 1e308))
    np.testing.assert_allclose(as_matrix(tree.lookup('a', 'b')),
                               matrix((0, 0, 0), (1, -1, 1, 1)), atol=1e-12)
    before = tree.lookup('a', 'b')
    with pytest.raises(RgbxSegError, match='translation'):
        tree.add('a', 'b', (1e308, 1e308, 1e308), (1, 1, 0, 1))
    assert tree.lookup('a', 'b') == before
    for n in range(50):  # nothing overflows along the tree
        tree.add(f'{n}', f'{n + 1}', (1e9, -1e9, 1e9), (1, 2, 3, n))
    assert np.isfinite(tree.lookup('0', '50').translation).all()
