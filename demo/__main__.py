# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m demo --bag B --bundle M --out DIR`: check, start the node, play, record, report."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from demo.compare import Comparison, Published, compare
from demo.timeline import Timeline, check_labels, read_timeline
from rgbx_seg_ros import RgbxSegError, __version__
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.engine import BACKENDS
from rgbx_seg_ros.manifest import Manifest, load_bundle, replace_folder
from rgbx_seg_ros.middleware import set_private_middleware
from rgbx_seg_ros.report import PAGE_FILE, REPORT_FILE, PairRecord, Run, write_report

if TYPE_CHECKING:
    from demo.recorder import Recorder
    from demo.session import Session


def main() -> int:
    """Run the demo; return its exit code."""
    return run_command(_main)


def _main() -> None:
    began = time.monotonic()
    options = _parse()
    manifest = load_bundle(options.bundle)
    _check_target(options.out)
    timeline = read_timeline(options.bag, manifest.modality, options.rgb_topic, options.aux_topic,
                             options.label_topic)
    check_labels(timeline, manifest.classes)
    seconds = (timeline.last_ns - timeline.first_ns) / 1e9 / options.rate
    print(f'{options.bag}: {timeline.pairs} pairs of {timeline.topics.rgb} and '
          f'{timeline.topics.aux}, {"with" if timeline.topics.label else "no"} labels; playing '
          f'{seconds:.1f} s through the node.', flush=True)
    set_private_middleware()
    from demo.session import record  # rclpy, which reads the environment

    with _new_folder(options.out) as folder, tempfile.TemporaryFile(dir=folder) as spool:
        session = record(timeline, options.bundle, manifest.modality, options.backend,
                         options.rate, folder / 'node.log', spool)
        published = _published(session, timeline)
        comparison = compare(timeline, manifest, published, session.recorder.pictures('mask'),
                             session.recorder.pictures('overlay'), folder)
        run = _run(options, manifest, timeline, session, published, comparison,
                   time.monotonic() - began)
        summary = write_report(folder, run, comparison.samples)
    print(_closing(summary, options.out))
    if session.exit_code:
        raise RgbxSegError(f'the node ended with exit code {session.exit_code}, expected 0; see '
                           f'{options.out / "node.log"}.')


def _parse() -> argparse.Namespace:
    parser = Arguments(prog='python -m demo', description=__doc__)
    parser.add_argument('--bag', type=Path, required=True, help='rosbag2 folder, .mcap or .db3')
    parser.add_argument('--bundle', type=Path, required=True, help='folder of the model')
    parser.add_argument('--out', type=Path, required=True, help='folder of the report')
    parser.add_argument('--rate', type=float, default=1.0,
                        help='speed of playing; below 1 for a machine that is too slow')
    parser.add_argument('--backend', default='auto', choices=('auto', *BACKENDS))
    for name in ('rgb', 'aux', 'label'):
        parser.add_argument(f'--{name}-topic', default='',
                            help='where the names of the topics do not tell')
    options = parser.parse_args()
    if not 0.05 <= options.rate <= 20:
        raise RgbxSegError(f'--rate is {options.rate:g}; expected 0.05 to 20.')
    return options


def _check_target(out: Path) -> None:
    """Refuse before the bag plays what could not be replaced afterwards."""
    if out.exists() and not (out.is_dir() and ((out / REPORT_FILE).exists()
                                               or not any(out.iterdir()))):
        raise RgbxSegError(f'{out} exists and is no report (no {REPORT_FILE} in it); expected a '
                           'new folder or an old report; choose another place.')


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out` that replaces it at the end, if all goes well."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f'.{out.name}-', dir=out.parent))
    except OSError as error:
        raise RgbxSegError(f'{out} cannot be written ({error.strerror}); expected a folder of '
                           'yours; choose another place.') from None
    try:
        folder.chmod(0o755)
        yield folder
        replace_folder(folder, out, ours=(REPORT_FILE,))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _published(session: Session, timeline: Timeline) -> list[Published]:
    """Return the pairs of the node's stats with the stamps of the bag, in order of time."""
    pairs, rate = [], session.clock.rate
    in_bag = {session.clock.stamp_ns(ns): ns for topic in timeline.images
              for ns in timeline.received[topic]}
    for stats in session.recorder.stats:
        live_ns, live_aux_ns = (stamp.sec * 1_000_000_000 + stamp.nanosec
                                for stamp in (stats.header.stamp, stats.aux_stamp))
        rgb_ns, aux_ns = (in_bag[ns] for ns in (live_ns, live_aux_ns))
        arrived_ns = max(timeline.received[topic][ns] for topic, ns in
                         zip(timeline.images, (rgb_ns, aux_ns), strict=True))
        camera_ms = (arrived_ns - timeline.bias_ns - rgb_ns) / 1e6 / rate
        record = PairRecord((rgb_ns - timeline.start_ns) / 1e9, stats.skew_ms * rate,
                            stats.latency_ms, camera_ms, stats.engine_ms, stats.overhead_ms,
                            stats.wait_ms, stats.mean_confidence)
        pairs.append(Published(rgb_ns, aux_ns, live_ns, record))
    return sorted(pairs)


def _run(options: argparse.Namespace, manifest: Manifest, timeline: Timeline, session: Session,
         published: list[Published], comparison: Comparison, wall_s: float) -> Run:
    info, recorder = session.recorder.info, session.recorder
    assert info is not None
    frames = {stream: {'in_bag': timeline.counts[topic],
                       'published': session.player.published[topic],
                       'received': recorder.received.get(stream, 0)}
              for stream, topic in zip(('rgb', 'aux'), timeline.images, strict=True)}
    return Run(
        bag=_name(options.bag), bundle=_name(options.bundle), modality=manifest.modality,
        model=info.model_name, classes=manifest.classes, backend=info.backend, device=info.device,
        precision=info.precision, rate=options.rate, stamp_shift_s=session.clock.shift_s,
        wall_s=wall_s, pairs_in_bag=timeline.pairs, pairs_published=_count(recorder), frames=frames,
        dropped=_dropped(session, timeline, frames), received=dict(recorder.counts),
        records=[pair.record for pair in published], player_late_ms=list(session.player.late_ms),
        confusion=comparison.confusion, scored=comparison.scored,
        versions=_versions(info, session.rmw))


def _dropped(session: Session, timeline: Timeline,
             frames: dict[str, dict[str, int]]) -> dict[str, int]:
    """Return what the node dropped, by cause, and what the wire lost before and after it."""
    recorder, player = session.recorder, session.player
    dropped = {f'lost_on_wire_{stream}': counts['published'] - counts['received']
               for stream, counts in frames.items()}
    dropped['lost_on_wire_mask'] = _count(recorder) - recorder.counts['mask']
    for stream, topic in zip(frames, timeline.images, strict=True):
        if player.undecodable[topic]:
            dropped[f'undecodable_{stream}'] = player.undecodable[topic]
    return {**dropped, **recorder.drops}


def _count(recorder: Recorder) -> int:
    """Return how many pairs the node published, even if the last stats were lost."""
    counted = [stats.pairs_published for stats in recorder.stats]
    return max([*counted, recorder.counts['mask']])


def _versions(info: Any, rmw: str) -> dict[str, str]:
    versions = {'rgbx_seg': __version__, info.backend: info.backend_version,
                'python': platform.python_version(), 'numpy': np.__version__,
                'opencv': cv2.__version__, 'ros': os.environ.get('ROS_DISTRO', ''), 'rmw': rmw}
    if not versions['ros']:  # ROS from PyPI names no distribution
        versions['ros'] = f'rclpy {_distribution("ros-rclpy")}'
    versions['machine'] = f'{platform.system()} {platform.machine()}, {os.cpu_count()} cores'
    return versions


def _distribution(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return 'unknown'


def _name(path: Path) -> str:
    """Return a path as given, but of an absolute one the last part only: reports are shared."""
    return path.name if path.is_absolute() else str(path)


def _closing(summary: dict[str, Any], out: Path) -> str:
    """Return the last lines: the key numbers, and where to look."""
    def ms(value: float | None) -> str:
        return 'none' if value is None else f'{value:.1f} ms'

    latency, engine = summary['latency_ms'], summary['engine_ms']
    lost = sum(count for cause, count in summary['dropped'].items() if 'lost_on_wire_' in cause)
    score = ('no labels in the bag' if summary['miou'] is None else
             f'mIoU {100 * summary["miou"]:.1f} % over {summary["scored_masks"]} labeled masks')
    return (f'  {summary["pairs_published"]} of {summary["pairs_in_bag"]} pairs became masks, '
            f'{lost} frames or masks lost on the wire; {score}\n'
            f'  latency p50 {ms(latency["p50"])}, p95 {ms(latency["p95"])}, most '
            f'{ms(latency["max"])}\n'
            f'  engine p50 {ms(engine["p50"])}, everything else {ms(summary["overhead_ms"]["p50"])}'
            f' ({summary["backend"]}, {summary["device"]})\n'
            f'Look at {out / PAGE_FILE}')


if __name__ == '__main__':
    sys.exit(main())
