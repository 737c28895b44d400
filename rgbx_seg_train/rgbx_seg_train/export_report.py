# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What an export made and what it took, as a record and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rgbx_seg_ros.manifest import MANIFEST_FILE
from rgbx_seg_train.config import Config
from rgbx_seg_train.data.sources import modality_of
from rgbx_seg_train.export_phases import peak_bytes
from rgbx_seg_train.export_scores import Measured, tell_scores
from rgbx_seg_train.parity import Parity
from rgbx_seg_train.variant_maker import Made
from rgbx_seg_train.variants import tell_forms


@dataclass(frozen=True)
class Report:
    """What an export made, and what it took."""

    name: str
    family: str
    preset: str
    parameters: int  # of the model for one modality
    opset: int
    scene_every: int
    fp16_weights: bool
    bytes: Mapping[str, int]  # by file
    nodes: Mapping[str, Mapping[str, int]]  # by ONNX file and type
    parity: Parity
    seconds: Mapping[str, float]  # by phase
    peak_bytes: Mapping[str, int]  # of the process, from its start to the end of each phase
    scores: Measured | None = None  # None: it was not asked for
    forms: tuple[Made, ...] = ()
    notes: tuple[str, ...] = ()  # what whoever runs the bundle should know


# (kind of source, its aux) -> what a driver of such a camera does not publish
MADE_OFFLINE = {('nyu', 'hha'): 'HHA', ('deliver', 'hha'): 'HHA',
                ('deliver', 'lidar'): 'colored LiDAR', ('zju', 'aolp'): 'angle-of-polarization',
                ('zju', 'dolp'): 'degree-of-polarization'}


def camera_notes(config: Config, modality: str) -> tuple[str, ...]:
    """Return what a robot must do for a network that learned from images made offline."""
    made = {(source.kind, getattr(source, 'aux', '')) for source in config.data.train
            if modality_of(source, config.data) == modality}
    names = sorted({MADE_OFFLINE[pair] for pair in made & MADE_OFFLINE.keys()})
    return tuple(f'it learned from {name} images, which cameras do not publish and the node does '
                 'not compute: give it such images as rgb8 with export.aux_channels=3, or train '
                 "with the source's aux depth or vector." for name in names)


def tell(out: Path, report: Report, nodes: bool = False) -> str:
    """Return a report as text, with the node counts if `nodes`."""
    parity, seconds = report.parity, report.seconds
    sizes = ', '.join(f'{name} {size / 1e6:.1f} MB' for name, size in report.bytes.items()
                      if name != MANIFEST_FILE)
    noise = f' and {parity.noise_pairs} of noise' * bool(parity.noise_pairs)
    lines = [
        f'{out}: {sum(report.bytes.values()) / 1e6:.1f} MB ({sizes}), opset {report.opset}',
        f'parity: {100 * parity.labels:.3f} % of the labels as in torch ({parity.classes} classes '
        f'seen in {parity.samples} pairs{noise}; {100 * parity.ties:.3f} % are ties), logits '
        f'within {parity.logits:.1e} of the largest',
        'seconds: ' + ', '.join(f'{name} {value:.1f}' for name, value in seconds.items())
        + f'; {sum(seconds.values()):.1f} in all',
        f'peak memory: {peak_bytes() / 1e9:.2f} GB',
    ]
    if report.scores:
        lines.append(tell_scores(report.scores))
    if report.forms:
        own = sum(size for name, size in report.bytes.items() if name in report.nodes)
        lines.append(tell_forms(report.forms, own))
    lines += [f'note: {note}' for note in report.notes]
    if nodes:
        lines += [f'{file}: {sum(counts.values())} nodes: '
                  + ', '.join(f'{count} {kind}' for kind, count in counts.items())
                  for file, counts in report.nodes.items()]
    return '\n'.join(lines)
