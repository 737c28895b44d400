# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""One pass over a bag: a thread reads and decodes, this one runs the engines, others score, write.

Each step of a pair is the node's own (Feed, Pipeline, Segmenter), so the masks are the node's, bit
for bit, wherever both see the same frames. No clock decides anything: two passes are the same.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import cv2
import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.eval_frames import BagPair, EvalFrame, Image, LaneResult, Sink
from rgbx_seg_ros.eval_pictures import Gallery
from rgbx_seg_ros.eval_result import BAG, PICTURES, RERUN_FILE, VIDEO_FILE, BagResult
from rgbx_seg_ros.eval_scoring import Scorer, Shared
from rgbx_seg_ros.eval_settings import EvalSettings
from rgbx_seg_ros.eval_source import BagSource, open_source
from rgbx_seg_ros.images import ImageError
from rgbx_seg_ros.pipeline import Pipeline, Prepared, Processed
from rgbx_seg_ros.segmenter import Segmenter
from rgbx_seg_ros.stages import ReadAhead, Stage
from rgbx_seg_ros.worker import open_segmenter

PREPARED = 2  # pairs that wait for the engines


class _Ready(NamedTuple):
    """A pair on its way to the engines."""

    pair: BagPair
    lanes: tuple[Prepared, ...]


class _Scored(NamedTuple):
    """A pair on its way to be scored."""

    pair: BagPair
    lanes: tuple[LaneResult, ...]


class Evaluator:
    """The engines of one or several bundles, to evaluate bag after bag; a context manager."""

    def __init__(self, settings: EvalSettings,
                 tell: Callable[[str], None] = lambda sentence: None) -> None:
        """Open the engines; `tell` hears of what takes long. RgbxSegError if they do not suit."""
        cv2.setNumThreads(1)  # as the node: OpenCV's own threads cost more than they save
        self.settings = settings
        self.segmenters: list[Segmenter] = []
        try:
            for bundle in settings.bundles:
                self.segmenters.append(
                    open_segmenter(settings.for_bundle(bundle), tell, aside=False))
            check_alike([segmenter.manifest for segmenter in self.segmenters])
        except BaseException:
            self.close()
            raise
        self.bundles = [_describe(name, segmenter) for name, segmenter in
                        zip(names_of(settings.bundles), self.segmenters, strict=True)]

    def __enter__(self) -> Evaluator:
        """Return self, ready."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Close the engines."""
        self.close()

    def close(self) -> None:
        """Free the models' memory."""
        while self.segmenters:
            self.segmenters.pop().engine.close()

    def __call__(self, bag: Path, name: str, key: str, folder: Path,
                 done: Callable[[int], None] = lambda pairs: None) -> BagResult:
        """Evaluate a bag; pictures, video and bag go into `folder`, which exists and is empty.

        `name` and `key` are passed on into the result; `done` hears how many pairs are done.

        Raises:
            RgbxSegError: the bag cannot be read, has no pair, or lacks what the settings want.

        """
        began = time.perf_counter()
        first = self.segmenters[0]
        source = open_source(bag, self.settings, first.manifest, first.exported.classes)
        run = _Run(self, source, bag, folder)
        run(done)
        if not run.pairs:
            raise RgbxSegError(
                f'{bag}: no frame of {source.topics.rgb} pairs with one of {source.topics.aux}; '
                'expected stamps of one clock that lie within sync.max_skew; look at both with '
                '`rgbx_benchmark sync`.')
        timing = {'wall_s': time.perf_counter() - began, 'reading_s': run.reading_s,
                  'pipeline_s': run.pipeline_s, 'engine_s': run.engine_s,
                  'scoring_s': run.scoring_s}
        sync = source.sync()
        for cause, count in run.unusable.items():
            sync['drops'][cause] = sync['drops'].get(cause, 0) + count
        sync['notes'] = [*sync['notes'], *run.notes.values()]
        topics = {'rgb': source.topics.rgb, 'aux': source.topics.aux,
                  'label': source.topics.label or ''}
        return BagResult(
            name, str(bag), key, run.start_ns, source.duration_s, topics, self.bundles,
            self.segmenters[0].manifest.classes, sync, run.records,
            [scorer.totals() for scorer in run.scorers], timing, run.gallery.pictures())


class _Run:
    """The pass over one bag."""

    def __init__(self, evaluator: Evaluator, source: BagSource, bag: Path, folder: Path) -> None:
        self._settings, self._source = evaluator.settings, source
        self._names = [bundle['name'] for bundle in evaluator.bundles]
        self._lanes = [Pipeline(segmenter, self._settings.pair.pipeline)
                       for segmenter in evaluator.segmenters]
        for pipeline in self._lanes:
            source.calibrate(pipeline.registration)
            if missing := pipeline.registration.missing():
                raise RgbxSegError(f'{bag}: {missing}')
        manifest = evaluator.segmenters[0].manifest
        shared = Shared()
        self.scorers = [Scorer(manifest.n_classes, shared) for _ in self._lanes]
        self.gallery = Gallery(folder / PICTURES, manifest.classes, self._names,
                               self._settings.pictures, self._settings.alpha)
        self._sinks: list[Sink] = [self.gallery, *_writers(
            evaluator, source, bag, folder, self._names)]
        self.records: list[list[Any]] = [[] for _ in self._lanes]
        self.pairs = self.start_ns = 0
        self.unusable: dict[str, int] = {}
        self.notes: dict[str, str] = {}  # of the pipelines, one of each kind
        self.reading_s = self.pipeline_s = self.engine_s = self.scoring_s = 0.0

    def __call__(self, done: Callable[[int], None]) -> None:
        """Run every pair through every bundle."""
        with ExitStack() as stack:
            # Sinks first: an exception of any thread makes them remove what they wrote.
            sinks = [stack.enter_context(sink) for sink in self._sinks]
            writers = [stack.enter_context(Stage(sink.add, type(sink).__name__))
                       for sink in sinks]
            scoring = stack.enter_context(Stage(partial(self._score, writers), 'scoring'))
            # Cut here and not below, or the source would have read on for a while.
            wanted = islice(self._source, self._settings.limit or None)
            pairs = stack.enter_context(ReadAhead(wanted))
            for ready in stack.enter_context(ReadAhead(self._prepare(pairs), PREPARED)):
                began = time.perf_counter()
                lanes = tuple(self._run(*lane, ready.pair)
                              for lane in zip(self._lanes, ready.lanes, strict=True))
                self.pipeline_s += time.perf_counter() - began
                self.start_ns = self.start_ns or ready.pair.stamp_ns
                self.pairs += 1
                scoring.put(_Scored(ready.pair, lanes))
                done(self.pairs)
        self.reading_s, self.scoring_s = pairs.busy_s, scoring.busy_s

    def _prepare(self, pairs: Iterable[BagPair]) -> Iterator[_Ready]:
        """Yield what the engines get, while they have the pair before; count what is of no use."""
        for pair in pairs:
            try:
                lanes = [pipeline.prepare(pair.rgb, pair.aux, pair.aux_encoding, pair.stamp_ns,
                                          pair.depth) for pipeline in self._lanes]
            except ImageError as error:
                self.unusable[error.cause] = self.unusable.get(error.cause, 0) + 1
                continue
            for note in self._lanes[0].notes():
                self.notes.setdefault(re.sub(r'\d+', '', note), note)
            # Copies, for the next pair overwrites them.
            yield _Ready(pair, tuple(lane._replace(aux=lane.aux.copy()) for lane in lanes))

    def _run(self, pipeline: Pipeline, prepared: Prepared, pair: BagPair) -> LaneResult:
        settings = self._settings
        done = pipeline.finish(prepared, pair.stamp_ns, settings.threshold, settings.smoothing_s,
                               settings.scene_every)
        result = done.result
        self.engine_s += result.engine_ms / 1e3
        return LaneResult(
            result.label, result.confidence, done.rgb, done.aux, done.thermal_ms,
            done.registration_ms, result.resize_ms, result.engine_ms,
            self._without_aux(pipeline.segmenter, pair, done))

    def _without_aux(self, segmenter: Segmenter, pair: BagPair, done: Processed) -> Image | None:
        """Return the label of a pair with aux blacked out, as for a lost camera, if it is due.

        Smoothed masks are left out: what the frames before have left in them is not of this pair.
        """
        every = self._settings.ablate_every
        if (not every or pair.number % every or pair.aux is None or pair.rgb is None
                or self._settings.smoothing_s > 0):
            return None
        result = segmenter(done.rgb, np.zeros_like(done.aux), self._settings.threshold)
        self.engine_s += result.engine_ms / 1e3
        return result.label

    def _score(self, writers: Sequence[Stage[EvalFrame]], scored: _Scored) -> None:
        """Put a pair into numbers, and hand it on to what writes."""
        pair, lanes = scored
        records = tuple(scorer.add(pair, lane, lanes[0], name, self.start_ns) for scorer, lane, name
                        in zip(self.scorers, lanes, self._names, strict=True))
        for rows, record in zip(self.records, records, strict=True):
            rows.append(record)
        frame = EvalFrame(pair, lanes, records)
        for writer in writers:
            writer.put(frame)


def _writers(evaluator: Evaluator, source: BagSource, bag: Path, folder: Path,
             names: Sequence[str]) -> list[Sink]:
    """Return what the settings want written beside the numbers."""
    settings, manifest = evaluator.settings, evaluator.segmenters[0].manifest
    sinks: list[Sink] = []
    if settings.video:
        from rgbx_seg_ros.eval_video import Video

        sinks.append(Video(folder / VIDEO_FILE, manifest.classes, names, manifest.modality,
                           settings.alpha, bool(source.topics.label or settings.labels)))
    if settings.write_bag:
        from rgbx_seg_ros.eval_output_bag import OutputBag

        sinks.append(OutputBag(folder / BAG, bag, manifest, names, settings))
    if settings.rerun:
        from rgbx_seg_ros.eval_rerun import RerunLog

        sinks.append(RerunLog(folder / RERUN_FILE, manifest.classes, names, manifest.modality))
    return sinks


def names_of(bundles: Sequence[Path]) -> list[str]:
    """Return a name for each bundle: its folder, with those above it where two are called alike."""
    parts = [bundle.resolve().parts for bundle in bundles]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ['/'.join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise RgbxSegError(f'--bundle names {bundles[0]} twice, expected different bundles.')


def check_alike(manifests: Sequence[Any]) -> None:
    """Raise unless all bundles can be judged on the same images by the same labels."""
    first = manifests[0]
    for other in manifests[1:]:
        if other.modality != first.modality:
            raise RgbxSegError(f'the bundles take RGB and {first.modality}, and RGB and '
                               f'{other.modality}; expected one modality; evaluate them apart.')
        if other.classes != first.classes:
            raise RgbxSegError(f'the bundles {first.name} and {other.name} know different classes; '
                               'expected the same ids, names and colors; evaluate them apart.')


def _describe(name: str, segmenter: Segmenter) -> dict[str, Any]:
    manifest, engine = segmenter.manifest, segmenter.engine.info
    return {'name': name, 'model': manifest.name, 'family': manifest.family,
            'modality': manifest.modality, 'sha256': manifest.onnx_sha256,
            'backend': engine.backend, 'backend_version': engine.version, 'device': engine.device,
            'precision': engine.precision, 'width': manifest.width, 'height': manifest.height,
            **({'classes_sha256': segmenter.classes_sha256} if manifest.vocabulary else {})}
