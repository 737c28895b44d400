# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How far a form of a bundle agrees with fp32, on pairs that it was not calibrated on.

A form runs in the library that it is for, where that runs here. fp16, bf16 and INT8 for TensorRT
need a GPU: a float32 graph that rounds after each operator as the form does stands for them in
ONNX Runtime. What a GPU rounds inside of an operator is not in it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from rgbx_seg_ros.engine import BACKENDS, Engine, Model, Options
from rgbx_seg_ros.machine import Machine, this_machine
from rgbx_seg_ros.manifest import BANK_FILE, Manifest
from rgbx_seg_ros.metrics import Confusion
from rgbx_seg_ros.segmenter import Enlarger
from rgbx_seg_train.data.sample import Image
from rgbx_seg_train.frames import Frame
from rgbx_seg_train.onnx_graph import serialize
from rgbx_seg_train.precision import lower, rounded

ON_PROCESSORS = ('openvino', 'onnxruntime')
# OpenVINO computes in fp32 what follows the last large operator, and the images before the first.
KEPT_BY_OPENVINO = ('images', 'answer')
OF_NO_LIBRARY = '0' * 64


class Answers(NamedTuple):
    """What an engine answered to pairs."""

    labels: Sequence[Image]  # (H, W) each, at the size of the engine's answer
    miou: float | None  # at the camera's size; None: there was no ground truth


@dataclass(frozen=True)
class Agreement:
    """A form beside fp32 on the same pairs."""

    labels: float  # share that are equal
    miou: float | None  # of the form, 0..1
    miou_change: float | None  # minus that of fp32
    pairs: int
    measured: str  # with what
    ms: Mapping[str, tuple[float, float]]  # library -> of a pair, in this form and in fp32


def fp32_answers(model: Model, frames: Sequence[Frame]) -> Answers:
    """Return the answers of a bundle's own graphs, or of a variant in fp32, in ONNX Runtime."""
    engine = BACKENDS['onnxruntime'](model, Options())
    return _answers([engine], frames, model.manifest)[0]


def agree(model: Model, reference: Model, expected: Answers, frames: Sequence[Frame],
          work: Path) -> Agreement:
    """Return how a model agrees with the answers `expected` of `reference`, the same in fp32.

    `work` is a folder for graphs that stand for others.

    Raises:
        RgbxSegError: the model cannot be opened.

    """
    engine, measured = open_form(model, work)
    library, engines = measured.split()[0], [engine]
    real = engine.info.backend in model.variant.backends if model.variant else True
    alike = real and reference.rgb_size == model.rgb_size
    if alike:
        engines.append(BACKENDS[library](reference, Options()))
    answers, ms = _answers(engines, frames, model.manifest)
    change = None if None in (answers.miou, expected.miou) else answers.miou - expected.miou
    return Agreement(_equal(answers.labels, expected.labels), answers.miou, change, len(frames),
                     measured, {library: (ms[0], ms[1])} if alike else {})


def _answers(engines: Sequence[Engine], frames: Sequence[Frame],
             manifest: Manifest) -> tuple[Answers, list[float]]:
    """Return what the first engine answers, and the median ms of a pair of each; close them.

    They run each pair in turn, so that all meet the same load of the machine.
    """
    labels, times = [], np.zeros((len(frames), len(engines)))
    try:
        for engine in engines:
            engine(frames[0].rgb, frames[0].aux)  # the first run allocates
        for row, frame in zip(times, frames, strict=True):
            for column, engine in enumerate(engines):
                began = time.perf_counter()
                label, _ = engine(frame.rgb, frame.aux)
                row[column] = (time.perf_counter() - began) * 1e3
                if column == 0:
                    labels.append(label[0].copy())
    finally:
        for engine in engines:
            engine.close()
    confusion = Confusion(manifest.n_classes)
    for label, frame in zip(labels, frames, strict=True):
        if frame.target is not None:
            confusion.update(Enlarger(label.shape, frame.target.shape)(label), frame.target)
    miou = confusion.miou(strict=True) if confusion.true().any() else None
    return Answers(labels, miou), [float(ms) for ms in np.median(times, 0)]


def _equal(labels: Sequence[Image], expected: Sequence[Image]) -> float:
    """Return the share of equal labels; of two sizes, at the first one."""
    equal = pixels = 0
    for label, other in zip(labels, expected, strict=True):
        shown = other if other.shape == label.shape else Enlarger(other.shape, label.shape)(other)
        equal += int(np.count_nonzero(label == shown))
        pixels += label.size
    return equal / pixels


def open_form(model: Model, work: Path, machine: Machine | None = None) -> tuple[Engine, str]:
    """Return an engine that answers as a model would, and what it is."""
    machine, variant = machine or this_machine(), model.variant
    assert variant is not None
    own = [name for name in ON_PROCESSORS if name in variant.backends]
    if own and (variant.precision != 'bf16' or 'bf16' in machine.precisions):
        engine = BACKENDS[own[0]](model, Options())
        return engine, f'{own[0]} {engine.info.version}'
    folder = work / variant.name
    folder.mkdir(parents=True, exist_ok=True)
    for name in model.graphs():
        graph = onnx.load(str(model.path(name)))
        if not variant.files:
            graph = lower(graph, variant.precision, KEPT_BY_OPENVINO).model
        (folder / name).write_bytes(serialize(rounded(graph)))
    link_bank(model, work)
    files = dict.fromkeys(model.graphs(), OF_NO_LIBRARY)
    stand_in = replace(model, bundle=work, variant=replace(variant, files=files))
    engine = BACKENDS['onnxruntime'](stand_in, Options())
    kind = 'fp16' if variant.precision == 'int8' else variant.precision
    return engine, f'onnxruntime {engine.info.version} in float32, rounded as {kind}'


def link_bank(model: Model, work: Path) -> None:
    """Put the bank of a bundle, if it has one, where forms that stand for others look for it."""
    if model.manifest.vocabulary is not None and not (work / BANK_FILE).exists():
        work.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.bundle / BANK_FILE, work / BANK_FILE)
