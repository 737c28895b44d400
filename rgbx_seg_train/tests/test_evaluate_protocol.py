# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How papers run a network, what goes wrong with cameras, and scores that several processes add."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.metrics import Confusion
from rgbx_seg_train.config import DataConfig
from rgbx_seg_train.data.labels import CLASS_SETS, TO_UNION
from rgbx_seg_train.data.sample import Sample
from rgbx_seg_train.evaluate_robustness import FAULTS, Robustness, shifted
from rgbx_seg_train.evaluate_windows import Passes, WholeImages, starts
from rgbx_seg_train.export_graph import BundleGraph
from rgbx_seg_train.pairs import spread
from rgbx_seg_train.preprocess import normalize
from rgbx_seg_train.score import Score, own_label

UNION, MFNET = DataConfig(classes='union70'), DataConfig()


def sample(seed=0, size=(64, 96), ids=9, modality='thermal', classes='mfnet', **conditions):
    rng = np.random.default_rng(seed)
    return Sample(rng.integers(0, 256, (*size, 3), np.uint8),
                  rng.integers(0, 256, (*size, 1), np.uint8),
                  rng.integers(0, ids, size).astype(np.uint8), modality, f'{seed:05d}', conditions,
                  classes)


class Pixels(nn.Module):
    """A network that sees `reach` pixels."""

    def __init__(self, classes=5, reach=1):
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Conv2d(6, classes, reach, padding=reach // 2)

    def forward(self, rgb, aux):
        return self.last(torch.cat([rgb, aux], 1))


def logits_of(network, one):
    with torch.no_grad():
        return network(*normalize(torch.from_numpy(one.rgb[None]),
                                  torch.from_numpy(one.aux[None])))[0]


def test_papers_choose_the_class_after_upsampling_to_the_label():
    one, network = sample(ids=5), Pixels()
    label, confidence = WholeImages(BundleGraph(network), (32, 48), Passes())(one)
    small = replace(one, rgb=one.rgb.reshape(32, 2, 48, 2, 3).mean((1, 3)).round().astype(np.uint8))
    small = replace(small, aux=one.aux.reshape(32, 2, 48, 2, 1).mean((1, 3)).round()
                    .astype(np.uint8))
    logits = functional.interpolate(logits_of(network, small)[None], (64, 96), mode='bilinear')[0]
    assert np.mean(label == logits.argmax(0).numpy()) > 0.98  # halving rounds .5 another way
    assert np.abs(confidence - 255 * logits.softmax(0).amax(0).numpy()).mean() < 2
    native, _ = WholeImages(BundleGraph(network), (32, 48), Passes('native'))(one)
    assert np.array_equal(native, own_label(logits_of(network, one), one, MFNET))


def test_a_mirror_and_windows_change_nothing_of_a_network_that_sees_single_pixels():
    one, network = sample(ids=5), Pixels()
    alone = WholeImages(BundleGraph(network), (32, 32), Passes('native'))(one)
    for passes in (Passes('native', flip=True), Passes('native', window=True),
                   Passes('native', window=True, scales=(1.0, 1.0), flip=True)):
        found = WholeImages(BundleGraph(network), (32, 32), passes)(one)
        assert np.array_equal(found[0], alone[0])
        assert np.abs(found[1].astype(int) - alone[1]).max() <= 1


def test_probabilities_of_scales_are_averaged():
    one, network = sample(ids=5), Pixels(reach=3)
    single = {scale: WholeImages(BundleGraph(network), (32, 48), Passes('network', scales=(scale,)))
              for scale in (1.0, 2.0)}
    total = 0
    for scale, run in single.items():
        logits = next(run._scores(one, (64, 96)))
        assert logits.shape == (1, 5, 64, 96), scale
        total = total + logits[0].softmax(0)
    label, confidence = WholeImages(BundleGraph(network), (32, 48), Passes(scales=(1.0, 2.0)))(one)
    assert np.array_equal(label, total.argmax(0).numpy())
    assert np.abs(confidence - 255 * (total / 2).amax(0).detach().numpy()).max() < 0.51


class Windows(nn.Module):
    """A network of two classes whose second image lacks the first of them."""

    def __init__(self):
        super().__init__()
        self.answers = iter([(2.0, -1.0), (-100.0, -1.0)])

    def forward(self, rgb, aux):
        return torch.tensor(next(self.answers)).view(1, 2, 1, 1).expand(1, 2, *rgb.shape[2:])


@pytest.mark.parametrize(('criterion', 'label', 'confidence'), [
    ('binary', (0, 0, 1), (224.6, 112.3, 68.6)),  # as CAT-Seg: (sigmoid(2) + 0) / 2 in both
    ('cross_entropy', (0, 1, 1), (242.9, 255.0, 255.0)),
])
def test_what_one_window_leaves_out_is_not_lost_where_another_has_it(
    criterion, label, confidence
):
    passes = Passes('64x32', window=True)
    found = WholeImages(BundleGraph(Windows()), (32, 48), passes, criterion)(
        sample(size=(32, 64), ids=2))
    for map_, values in zip(found, (label, confidence), strict=True):
        # columns of the first window, of both, of the second
        assert np.abs(map_ - np.repeat(values, (16, 32, 16))).max() < 0.51
    assert f'{"probabilities" if criterion == "binary" else "logits"} averaged' in passes.words(
        (32, 48), criterion)


def test_windows_may_be_averaged_with_a_pass_of_the_whole_image():
    one, network, size = sample(ids=5), Pixels(reach=3), (32, 32)
    windows = WholeImages(BundleGraph(network), size, Passes('96x64', window=True), 'binary')
    whole = WholeImages(BundleGraph(network), size, Passes())._run(
        *windows._images(one, size, False)).sigmoid()
    total = sum(functional.interpolate(chances, (64, 96), mode='bilinear') for chances in (
        next(windows._scores(one, (64, 96))), whole))[0].detach()
    label, confidence = WholeImages(BundleGraph(network), size,
                                    Passes('96x64', window=True, whole=True), 'binary')(one)
    assert np.array_equal(label, total.argmax(0).numpy())
    assert np.abs(confidence - 255 * (total / 2).amax(0).numpy()).max() < 0.51


def test_confidence_is_what_the_criterion_of_training_says():
    one, network = sample(ids=5), Pixels()
    logits = logits_of(network, one)
    for criterion, chances in (('cross_entropy', logits.softmax(0)), ('binary', logits.sigmoid())):
        label, confidence = WholeImages(BundleGraph(network), (64, 96), Passes(), criterion)(one)
        assert np.array_equal(label, logits.argmax(0).numpy())
        assert np.abs(confidence - 255 * chances.amax(0).numpy()).max() < 0.51


def test_an_odd_channel_changes_its_sign_in_the_mirror():
    one = sample(ids=5)
    one = replace(one, aux=np.repeat(one.aux, 3, 2), odd_channels=(1,))
    _, aux = WholeImages(BundleGraph(Pixels()), (64, 96), Passes())._images(one, (64, 96), True)
    assert np.allclose(255 * aux[0, 0].numpy(), one.aux[:, ::-1, 0], atol=1e-3)
    assert np.allclose(255 * aux[0, 1].numpy(), 255 - one.aux[:, ::-1, 1], atol=1e-3)


def test_sides_are_rounded_up_to_32_as_in_the_public_code():
    assert Passes('1024').size_for((600, 800), (512, 512), 1.0) == (1024, 1376)  # FMB
    assert Passes('native').size_for((480, 640), (512, 512), 1.0) == (480, 640)
    assert Passes('native').size_for((433, 623), (512, 512), 1.0) == (448, 640)  # UrbanLF
    assert Passes('640x480').size_for((100, 90), (384, 384), 1.0) == (480, 640)
    assert Passes().size_for((480, 640), (240, 320), 1.0) == (240, 320)
    assert Passes().size_for((480, 640), (240, 320), 1.5) == (384, 480)


def test_windows_cover_everything_and_overlap_by_a_third():
    for length, window in ((96, 32), (100, 32), (1042, 512), (33, 32), (32, 32)):
        begins = starts(length, window)
        assert begins[0] == 0 and begins[-1] == length - window
        assert all(0 < b - a <= round(window * 2 / 3)
                   for a, b in zip(begins, begins[1:], strict=False))


@pytest.mark.parametrize('passes', [{'size': 'large'}, {'size': '16'}, {'scales': ()},
                                    {'scales': (0.0,)}, {'scales': (float('nan'),)},
                                    {'size': '640x'}, {'size': '64x64x64'}, {'whole': True}])
def test_sizes_and_scales_that_are_none_are_refused(passes):
    with pytest.raises(RgbxSegError, match='expected'):
        Passes(**passes)


def test_an_image_is_moved_by_whole_pixels():
    image = np.arange(24, dtype=np.uint8).reshape(4, 6, 1)
    for down, right in ((0, 2), (3, 0), (0, -2), (-3, 0), (1, -1), (0, 9)):
        expected = np.zeros_like(image)
        for y in range(4):
            for x in range(6):
                if 0 <= y - down < 4 and 0 <= x - right < 6:
                    expected[y, x] = image[y - down, x - right]
        assert np.array_equal(shifted(image, down, right), expected), (down, right)


def test_faults_spoil_what_they_say_and_the_same_in_each_run():
    one = sample(size=(80, 80))
    spoiled = {fault.name: fault.spoil(one, np.random.default_rng(3)) for fault in FAULTS}
    for fault in FAULTS:
        again = fault.spoil(one, np.random.default_rng(3))
        assert np.array_equal(again.rgb, spoiled[fault.name].rgb)
        assert np.array_equal(again.aux, spoiled[fault.name].aux)
        assert again.label is one.label
    assert not spoiled['aux_missing'].aux.any() and not spoiled['rgb_black'].rgb.any()
    for pixels in (2, 4, 8, 16):
        moved = spoiled[f'aux_shift_{pixels}'].aux
        assert moved[20:60, 20:60, 0].tolist() in [
            one.aux[20 - down:60 - down, 20 - right:60 - right, 0].tolist()
            for down, right in ((0, pixels), (pixels, 0), (0, -pixels), (-pixels, 0))]
    error = spoiled['rgb_noise'].rgb.astype(int) - one.rgb
    middle = (one.rgb > 90) & (one.rgb < 165)
    assert abs(error[middle].std() - 25.5) < 1 and abs(error[middle].mean()) < 1
    assert spoiled['rgb_noise'].aux is one.aux and spoiled['aux_noise'].rgb is one.rgb
    assert (spoiled['noise'].rgb != one.rgb).any() and (spoiled['noise'].aux != one.aux).any()


def test_robustness_tells_what_each_fault_costs():
    one = sample(ids=2)
    one = replace(one, label=(one.aux[..., 0] > 127).astype(np.uint8))
    robustness = Robustness(lambda: Score(MFNET))

    def answer(seen):
        return (seen.aux[..., 0] > 127).astype(np.uint8)

    robustness.add(one, answer(one), answer, 'set')
    rows = {row['fault']: row for row in robustness.summary('thermal')}
    assert rows['none']['miou_present'] == 1 and rows['none']['change'] == 0
    assert rows['rgb_black']['change'] == rows['rgb_noise']['change'] == 0
    assert rows['aux_missing']['words'] == 'Thermal missing'
    expected = Confusion(9)
    expected.update(np.zeros_like(one.label), one.label)
    assert rows['aux_missing']['miou'] == expected.miou(strict=True)
    assert rows['aux_shift_2']['change'] < -0.1
    assert Robustness(lambda: Score(MFNET)).summary('thermal') == []


def test_frames_are_spread_evenly():
    assert spread(10, 5) == [1, 3, 5, 7, 9] and spread(3, 50) == [0, 1, 2] and not spread(4, 0)
    assert len(set(spread(1569, 50))) == 50


def test_logits_of_the_union_are_read_among_the_classes_of_the_sample():
    torch.manual_seed(1)
    logits = torch.randn(70, 8, 12)
    for own in ('mfnet', 'pst900', 'fmb', 'deliver', 'nyu40', 'zju', 'urbanlf'):
        one = sample(size=(16, 24), classes=own, ids=2)
        up = functional.interpolate(logits[None], (16, 24), mode='bilinear')[0].numpy()
        known = {number: channel for number, channel in enumerate(TO_UNION[own]) if channel != 255}
        ids = np.array(list(known))
        expected = ids[up[[known[number] for number in ids]].argmax(0)]
        assert np.array_equal(own_label(logits, one, UNION), expected), own


def test_scores_of_parts_add_up_to_those_of_all():
    frames = [sample(n, classes=own, ids=ids, modality=modality, time='night' if n % 2 else 'day',
                     weather=('fog', 'sun', 'rain')[n % 3])
              for n in range(6) for own, ids, modality in
              (('mfnet', 9, 'thermal'), ('deliver', 25, 'event'), ('deliver', 25, 'depth'))]
    whole, parts = Score(UNION), [Score(UNION) for _ in range(4)]
    for n, one in enumerate(frames):
        label = np.roll(one.label, 1, 1)
        label[:4] = 255  # withheld
        whole.update(label, one)
        parts[n % 3].update(label, one)  # the fourth process had none
    total = Score(UNION)
    for part in parts:
        total += part
    assert total.summary() == whole.summary()
    found = whole.summary()
    assert list(found['sets']) == ['deliver depth', 'deliver event', 'mfnet thermal']
    assert found['frames'] == 18 and found['conditions']['weather']['fog']['frames'] == 6
    assert found['conditions']['time']['night']['sets'].keys() == found['sets'].keys()
    confusion = Confusion(9)
    for one in frames[::3]:
        label = np.roll(one.label, 1, 1)
        label[:4] = 255
        confusion.update(label, one.label)
    row = found['sets']['mfnet thermal']
    assert row['miou'] == confusion.miou(strict=True)
    assert row['mean_accuracy'] == pytest.approx(np.nanmean(
        np.diag(confusion.matrix) / confusion.true()))
    assert found['miou'] == pytest.approx(np.mean([one['miou'] for one in found['sets'].values()]))


def test_a_set_without_labels_counts_in_no_mean():
    score = Score(MFNET)
    one = sample()
    score.update(one.label, one, 'labeled')
    score.update(one.label, replace(one, label=np.full_like(one.label, 255)), 'not')
    found = score.summary()
    assert found['miou'] == 1 and found['sets']['not']['miou'] is None
    assert found['miou_day'] is None and found['iou']['car'] == 1
    assert Score(MFNET).summary()['miou'] is None and Score(MFNET).line() == 'nothing to score'


def test_a_line_tells_sets_and_classes():
    score = Score(MFNET)
    one = sample(time='night')
    score.update(one.label, one)
    assert score.line() == 'mIoU 100.0, night 100.0; by class ' + ' '.join(['100'] * 9)
    assert score.classes_of('mfnet thermal') == CLASS_SETS['mfnet']


def test_one_name_for_two_sets_of_classes_is_refused():
    score = Score(UNION)
    score.update(sample().label, sample(), 'drive')
    other = sample(classes='fmb')
    with pytest.raises(RgbxSegError, match='drive is labeled with mfnet and with fmb'):
        score.update(other.label, other, 'drive')
