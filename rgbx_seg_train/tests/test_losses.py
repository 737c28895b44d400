# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What training minimizes, against sums written out pixel by pixel."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rgbx_seg_train.config import DataConfig, LossConfig
from rgbx_seg_train.data.labels import TO_UNION
from rgbx_seg_train.losses import Objective, class_weights, dice_loss

MFNET = DataConfig()
UNION = DataConfig(classes='union70')


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ids(high, *shape, seed=1):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def value(objective, logits, target, classes):
    weight = objective.weight(target, classes)
    return objective(logits, target, classes, weight) + objective.of_batch(logits, target)


def by_hand(logits, target, weights=None):
    """Return summed loss and weight of the labeled pixels, one by one in float64."""
    total = weight = 0.0
    for b, y, x in np.ndindex(*target.shape):
        if target[b, y, x] != 255:
            w = 1.0 if weights is None else float(weights[target[b, y, x]])
            scores = logits[b, :, y, x].double()
            total -= w * torch.log_softmax(scores, 0)[target[b, y, x]].item()
            weight += w
    return total, weight


def test_the_loss_is_the_weighted_mean_over_labeled_pixels():
    logits, target = random(2, 9, 4, 5), ids(3, 2, 4, 5)
    target[0, 0] = 255
    weights = torch.tensor([1.0, 2.0, 5.0, *[1.0] * 6])
    total, weight = by_hand(logits, target, weights)
    found = value(Objective(MFNET, LossConfig(), weights), logits, target, ['mfnet'] * 2)
    assert found.item() == pytest.approx(total / weight, rel=1e-5)


@pytest.mark.parametrize('weighted', [False, True])
def test_equation_8_adds_the_entropy_among_the_classes_of_each_samples_own_set(weighted):
    classes = ['mfnet', 'zju', 'mfnet']
    logits = random(3, 70, 3, 4)
    own = [ids(len(TO_UNION[name]), 3, 4, seed=n) for n, name in enumerate(classes)]
    own[1][0, 0] = 255
    tables = [np.pad(TO_UNION[name], (0, 256 - len(TO_UNION[name])), constant_values=255)
              for name in classes]
    target = torch.stack([torch.from_numpy(table)[label]
                          for table, label in zip(tables, own, strict=True)])
    weights = torch.rand(70, generator=torch.Generator().manual_seed(5)) + 0.5 if weighted else None
    first, first_weight = by_hand(logits, target, weights)
    second = second_weight = 0.0
    for n, name in enumerate(classes):
        channels = list(TO_UNION[name])
        part, weight = by_hand(logits[n:n + 1, channels], own[n][None],
                               None if weights is None else weights[channels])
        second, second_weight = second + part, second_weight + weight
    expected = first / first_weight + 0.5 * second / second_weight
    objective = Objective(UNION, LossConfig(own_term=0.5), weights)
    assert value(objective, logits, target, classes).item() == pytest.approx(expected, rel=1e-5)


def test_a_network_with_the_sets_own_classes_has_one_term():
    logits, target = random(2, 9, 4, 5), ids(9, 2, 4, 5)
    one, both = (value(Objective(MFNET, LossConfig(own_term=term)), logits, target, ['mfnet'] * 2)
                 for term in (0.0, 1.0))
    assert one == both


def test_the_background_of_the_union_may_be_left_out_of_the_first_term_alone():
    logits = random(1, 70, 2, 3)
    target = torch.tensor([[[25, 25, 9], [3, 25, 255]]])  # MFNet: unlabeled, car, person
    own = torch.tensor([[[0, 0, 1], [2, 0, 255]]])
    objective = Objective(UNION, LossConfig(ignore_background_union=True))
    first = by_hand(logits, target.masked_fill(target == 25, 255))
    second = by_hand(logits[:, list(TO_UNION['mfnet'])], own)
    assert (first[1], second[1]) == (2, 5)
    assert value(objective, logits, target, ['mfnet']).item() == pytest.approx(
        first[0] / 2 + second[0] / 5, rel=1e-5)


def test_the_second_term_sends_no_gradient_to_classes_of_other_sets():
    logits = random(1, 70, 4, 4).requires_grad_()
    target = ids(1, 1, 4, 4) + 68  # ZJU's glass
    objective = Objective(UNION, LossConfig())
    weight = objective.weight(target, ['zju'])
    full = objective(logits, target, ['zju'], weight)
    first = replace(objective.config, own_term=0.0)
    full = full - Objective(UNION, first)(logits, target, ['zju'], weight)
    full.backward()
    touched = logits.grad.abs().sum((0, 2, 3)) > 0
    assert set(touched.nonzero().flatten().tolist()) == set(TO_UNION['zju'])


def test_shares_of_a_step_add_up_to_the_loss_of_the_whole():
    logits, target = random(4, 70, 4, 5), ids(9, 4, 4, 5)
    target = torch.tensor([*TO_UNION['mfnet']])[target]
    target[3, :3] = 255  # a part with fewer labels must not count as much as the others
    objective, classes = Objective(UNION, LossConfig()), ['mfnet'] * 4
    whole = value(objective, logits, target, classes)
    parts = [slice(0, 1), slice(1, 3), slice(3, 4)]
    weight = sum(objective.weight(target[p], classes[p]) for p in parts)
    shares = sum(objective(logits[p], target[p], classes[p], weight) for p in parts)
    assert shares.item() == pytest.approx(whole.item(), rel=1e-6)


def test_a_batch_without_labels_is_worth_nothing():
    logits = torch.randn(1, 9, 4, 4, requires_grad=True)
    target = torch.full((1, 4, 4), 255)
    loss = value(Objective(MFNET, LossConfig(dice=1.0), torch.ones(9)), logits, target, ['mfnet'])
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_dice_is_zero_for_a_perfect_mask_and_a_half_for_one_found_with_half_certainty():
    target = torch.tensor([[[0, 0, 1, 1, 255]]])
    perfect = torch.where(torch.tensor([[[[1, 1, 0, 0, 1]], [[0, 0, 1, 1, 0]], [[0] * 5]]]) > 0,
                          50.0, -50.0)
    assert dice_loss(perfect, target).item() == pytest.approx(0, abs=1e-6)
    undecided = torch.zeros(1, 2, 1, 5)  # p = 1/2: 2 * 1 / (2 + 2)
    assert dice_loss(undecided, target).item() == pytest.approx(0.5)


def test_class_weights_are_inverse_square_roots_up_to_a_limit():
    shares = torch.tensor([0.64, 0.16, 0.01, 0.0])
    config = LossConfig(class_weights='inverse_sqrt', max_weight=5.0)
    torch.testing.assert_close(class_weights(shares, config), torch.tensor([1.0, 2.0, 5.0, 5.0]))


@pytest.mark.parametrize('weighted', [False, True])
def test_the_binary_criterion_asks_each_class_by_itself_and_no_unlabeled_pixel(weighted):
    logits, target = random(2, 9, 3, 4), ids(9, 2, 3, 4)
    target[0, 0] = 255
    weights = torch.linspace(1, 5, 9) if weighted else None
    total = weight = 0.0
    for b, y, x in np.ndindex(2, 3, 4):
        if target[b, y, x] != 255:
            chance = torch.sigmoid(logits[b, :, y, x].double())
            right = [-torch.log(p if c == target[b, y, x] else 1 - p) for c, p in enumerate(chance)]
            w = 1.0 if weights is None else float(weights[target[b, y, x]])
            total, weight = total + w * float(sum(right)) / 9, weight + w
    objective = Objective(MFNET, LossConfig(criterion='binary'), weights)
    assert value(objective, logits, target, ['mfnet'] * 2).item() == pytest.approx(
        total / weight, rel=1e-5)
    logits[0, :, 0] = 1e4  # only where nothing is labeled
    assert value(objective, logits, target, ['mfnet'] * 2).item() == pytest.approx(
        total / weight, rel=1e-5)
