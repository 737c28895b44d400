# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""One data set scored frame by frame, by the code that scores the robot's bags.

The frames of a data set are taken for a bag whose frames lie a second apart, so that each is a
moment of its own: for the pictures of the worst ones, and for the intervals of the scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from rgbx_seg_ros.eval_compare import FEW_BLOCKS, LEAST_BLOCKS, Bootstrap
from rgbx_seg_ros.eval_frames import BagPair, EvalFrame, LaneResult
from rgbx_seg_ros.eval_pictures import Gallery
from rgbx_seg_ros.eval_result import BagResult, LaneTotals, finite
from rgbx_seg_ros.eval_scoring import Scorer
from rgbx_seg_ros.manifest import ClassInfo
from rgbx_seg_ros.metrics import Confusion
from rgbx_seg_ros.metrics_boundary import BoundaryIou
from rgbx_seg_ros.metrics_calibration import Calibration
from rgbx_seg_train.data.sample import Sample
from rgbx_seg_train.evaluate_model import Answer

LANE = 'model'
SECOND_NS = 1_000_000_000


class SetRow(NamedTuple):
    """What is known of a frame beside its numbers."""

    name: str
    conditions: Mapping[str, str]


class SetRun:
    """Counts one data set; a context manager that writes pictures at its end."""

    def __init__(self, name: str, modality: str, infos: Sequence[ClassInfo],
                 folder: Path | None = None, pictures: int = 0) -> None:
        """Start at zero; of the worst and the best frames `pictures` each go into `folder`."""
        self.name, self.modality, self.infos = name, modality, tuple(infos)
        self.rows: list[SetRow] = []
        self.folder = folder
        self._scorer = Scorer(len(self.infos))
        self._gallery = Gallery(folder or Path(), self.infos, [LANE], pictures if folder else 0)
        self._records: list[Any] = []
        self._stack = ExitStack()

    def __enter__(self) -> SetRun:
        """Begin."""
        self._stack.enter_context(self._gallery)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Write the pictures; nothing after an exception."""
        self._stack.__exit__(kind, error, trace)

    def add(self, sample: Sample, answer: Answer) -> None:
        """Count the next frame."""
        number = len(self._records)
        rgb, aux, target = (np.ascontiguousarray(image)
                            for image in (sample.rgb, sample.aux, sample.label))
        stamp_ns = number * SECOND_NS
        pair = BagPair(number, rgb, aux, '', None, target, stamp_ns, '', stamp_ns, stamp_ns,
                       stamp_ns, 0, 'still', 0.0)
        lane = LaneResult(answer.label, answer.confidence, rgb, aux, 0.0, 0.0, 0.0, 0.0, None)
        record = self._scorer.add(pair, lane, lane, LANE, 0)
        self._records.append(record)
        self.rows.append(SetRow(sample.name, sample.conditions))
        self._gallery.add(EvalFrame(pair, (lane,), (record,)))

    def result(self) -> BagResult:
        """Return the counts as those of a bag; `bag` is the name of the folder of its pictures."""
        return BagResult(
            self.name, self.folder.name if self.folder else '', '', 0,
            float(len(self._records)), {}, [{'name': LANE, 'modality': self.modality}],
            self.infos, {}, [self._records], [self._scorer.totals()], {}, self._gallery.pictures())


def scores_of(result: BagResult) -> dict[str, Any]:
    """Return the numbers of a data set beside those of `score.Score`; None where there is none.

    They are those of a bag's report under the same names: boundary IoU, calibration, intervals, the
    confusion matrix [target][predicted] and what was left open.
    """
    totals = result.totals[0]
    boundary = BoundaryIou(len(totals.confusion))
    boundary.counts += totals.boundary
    calibration = Calibration()
    calibration.counts += totals.calibration
    bootstrap = Bootstrap([result], length_s=1.0)
    blocks = bootstrap.about['blocks']
    return finite({
        'boundary_miou': boundary.miou(), 'ece': calibration.ece(), 'mce': calibration.mce(),
        'miou_present_interval': bootstrap.miou(0), 'caveat': _caveat(blocks),
        'per_class': _per_class(result, totals, boundary, bootstrap),
        'confusion': totals.confusion, 'abstained': totals.abstained,
        'reliability': [one._asdict() for one in calibration.reliability()]})


def _per_class(result: BagResult, totals: LaneTotals, boundary: BoundaryIou,
               bootstrap: Bootstrap) -> list[dict[str, Any]]:
    confusion = Confusion(len(totals.confusion))
    confusion.matrix += totals.confusion
    confusion.abstained += totals.abstained
    columns = {'iou': confusion.iou(), 'boundary_iou': boundary.iou(),
               'precision': confusion.precision(), 'recall': confusion.recall(),
               'true_share': _shares(confusion.true()),
               'predicted_share': _shares(totals.fractions.sum(0)),
               'interval': bootstrap.per_class(0)}
    return [{'id': info.id, 'name': info.name,
             **{name: column[info.id] for name, column in columns.items()}}
            for info in result.classes]


def _shares(counts: Any) -> Any:
    return counts / counts.sum() if counts.sum() else np.full(len(counts), np.nan)


def _caveat(frames: int) -> str:
    if frames < LEAST_BLOCKS:
        return f'no interval can be told of {frames} frames.'
    if frames < FEW_BLOCKS:
        return f'the intervals stand on {frames} frames and are narrower than they should be.'
    return ''
