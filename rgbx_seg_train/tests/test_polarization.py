# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Degree and angle of polarization of light of known Stokes parameters behind ideal polarizers."""

import numpy as np
import pytest

from rgbx_seg_train.data.polarization import ANGLES, MEASURES, ODD_CHANNELS


class TestPolarization:
    DEGREE = np.array([[0.1, 0.5, 0.9, 1.0, 0.5, 0.7]])
    ANGLE = np.radians([[0.0, 30.0, 45.0, 90.0, 120.0, 175.0]])
    S0 = 200.0

    def images(self):
        """By Malus: I(a) = S0 / 2 * (1 + DoLP * cos(2 * (AoLP - a)))."""
        views = [self.S0 / 2 * (1 + self.DEGREE * np.cos(2 * (self.ANGLE - np.radians(angle))))
                 for angle in ANGLES]
        return [np.dstack([view] * 3).round().astype(np.uint8) for view in views]

    def test_degree(self):
        found = MEASURES['dolp'](self.images())[..., 0] / 255
        np.testing.assert_allclose(found, self.DEGREE, atol=0.01)

    def test_angle_of_half_a_turn(self):
        found = MEASURES['aolp'](self.images())[..., 2] / 255 * np.pi
        apart = (found - self.ANGLE + np.pi / 2) % np.pi - np.pi / 2  # 0 and 180 degrees are one
        assert np.abs(np.degrees(apart)).max() < 3.5  # 10 % polarized: one count is 3 degrees
        assert np.abs(np.degrees(apart[self.DEGREE >= 0.5])).max() < 1

    def test_vector_is_the_robots(self):
        found = MEASURES['vector'](self.images()).astype(float) * 2 / 255 - 1
        meant = np.dstack([self.DEGREE, np.sin(2 * self.ANGLE), np.cos(2 * self.ANGLE)])
        np.testing.assert_allclose(found[:, 1:], meant[:, 1:], atol=0.03)

    def test_each_color_is_measured_alone(self):
        images = self.images()
        images[0][..., 1] = images[2][..., 1]
        degree = MEASURES['dolp'](images)
        np.testing.assert_array_equal(degree[..., 0], degree[..., 2])
        assert (degree[..., 1] != degree[..., 0]).any()

    def test_black_is_unpolarized(self):
        black = [np.zeros((2, 2, 3), np.uint8)] * 4
        assert not MEASURES['dolp'](black).any() and not MEASURES['aolp'](black).any()

    def test_saturated_views_do_not_wrap(self):
        views = [np.full((1, 1, 3), value, np.uint8) for value in (255, 0, 0, 0)]
        assert MEASURES['dolp'](views)[0, 0, 0] == 255

    @pytest.mark.parametrize('aux', sorted(MEASURES))
    def test_a_mirror_inverts_the_odd_channels(self, aux):
        views = self.images()
        seen = MEASURES[aux](views).astype(int)
        mirrored = MEASURES[aux]([views[0], views[3], views[2], views[1]]).astype(int)
        for channel in range(3):
            expected = 255 - seen if channel in ODD_CHANNELS[aux] else seen
            apart = np.abs(mirrored - expected)[..., channel]
            turn = 255 if aux == 'aolp' else 1000  # angles wrap
            assert np.minimum(apart, turn - apart).max() <= 1
