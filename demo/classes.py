# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m demo.classes --bag B --bundle M --then NAMES --out DIR`: other classes while it runs.

Plays a bag through the real node, over DDS, and sets the parameters `classes` and `classes_file` on
the way, as `ros2 param set` does. What comes out is a strip of pictures, the last mask before each
change beside the first one after it, and what was asked, answered and measured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from demo.timeline import Timeline, read_timeline
from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.engine import BACKENDS
from rgbx_seg_ros.eval_settings import classes_given
from rgbx_seg_ros.manifest import load_bundle
from rgbx_seg_ros.middleware import set_private_middleware

STRIP_FILE, CHANGES_FILE, LOG_FILE = 'strip.png', 'changes.json', 'node.log'
ANSWER_S = 30.0  # that a change may take
HEIGHT, LINE, MARGIN = 240, 22, 8  # pixels of a picture, a line of text, a gap
WHITE, BLACK, GRAY, RED = (255, 255, 255), (20, 20, 20), (110, 110, 110), (190, 0, 0)

Image = NDArray[np.uint8]


@dataclass
class Change:
    """One set of classes that was asked for, and what became of it."""

    asked: str
    refused: str = ''  # why, in the node's words
    took_ms: float = 0.0  # from the call to the answer
    version: int = 0  # in force after it
    classes: list[str] = field(default_factory=list)
    colors: list[list[int]] = field(default_factory=list)
    before_ns: int = 0  # stamp of the last mask of the classes before
    after_ns: int = 0  # and of the first of these
    masks: int = 0  # of these classes


class Asker:
    """Asks a node for classes on a thread of its own, at even distances while a bag plays."""

    def __init__(self, changes: Sequence[Change], seconds: float) -> None:
        """Take what to ask for, and how long the bag plays."""
        self._changes, self._pause_s = changes, seconds / (len(changes) + 1)
        self._ended = threading.Event()
        self._silent = ''  # what the node has not answered to, so that nobody knows its classes

    @contextmanager
    def beside(self, node: Any, recorder: Any, name: str) -> Iterator[None]:
        """Ask while the scope is open; all is answered when it ends."""
        thread = threading.Thread(target=self._ask_all, args=(node, recorder, name), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
        if self._silent:
            raise RgbxSegError(f'the node has not answered in {ANSWER_S:.0f} s whether it takes '
                               f'{self._silent}; expected an answer; see {LOG_FILE}.')

    def _ask_all(self, node: Any, recorder: Any, name: str) -> None:
        from rcl_interfaces.srv import SetParametersAtomically
        from rclpy.parameter import Parameter

        client = node.create_client(SetParametersAtomically, f'{name}/set_parameters_atomically')
        client.wait_for_service(ANSWER_S)
        version = 0
        while not recorder.stats and not self._ended.wait(0.05):
            pass  # the first mask is of the classes that the bundle brings
        for change in self._changes:
            self._ended.wait(self._pause_s)
            values = {'classes_file': ''} | classes_given(change.asked)
            request = SetParametersAtomically.Request(parameters=[
                Parameter(key, value=value).to_parameter_msg() for key, value in values.items()])
            began = time.monotonic()
            answered = threading.Event()
            future = client.call_async(request)
            future.add_done_callback(lambda _, answered=answered: answered.set())
            if not answered.wait(ANSWER_S):
                self._silent = change.asked
                return
            change.took_ms = (time.monotonic() - began) * 1e3
            result = future.result().result
            change.refused = '' if result.successful else result.reason
            version += result.successful
            while not (recorder.stats and recorder.stats[-1].classes_version >= version):
                if self._ended.wait(0.02):
                    break  # else the next change comes after a mask of this one


def main() -> int:
    """Run the demo; return its exit code."""
    return run_command(_main)


def _main() -> None:
    options = _parse()
    manifest = load_bundle(options.bundle)
    if manifest.vocabulary is None:
        raise RgbxSegError(f'bundle {options.bundle}: its {len(manifest.classes)} classes are '
                           'fixed; expected one with a vocabulary: export the model with '
                           'export.open_classes.')
    if options.out.exists() and not (options.out / CHANGES_FILE).is_file() and (
            not options.out.is_dir() or any(options.out.iterdir())):
        raise RgbxSegError(f'{options.out} exists and is nothing of this command; expected a new '
                           'folder; choose another place.')
    timeline = read_timeline(options.bag, manifest.modality, options.rgb_topic, options.aux_topic)
    changes = [Change(asked) for asked in options.then]
    options.out.mkdir(parents=True, exist_ok=True)
    set_private_middleware()
    strip = _play(options, timeline, manifest.modality, changes)
    cv2.imwrite(str(options.out / STRIP_FILE), cv2.cvtColor(strip, cv2.COLOR_RGB2BGR))
    (options.out / CHANGES_FILE).write_text(
        json.dumps([asdict(change) for change in changes], indent=1) + '\n', 'utf-8')
    for change in changes:
        print(_told(change))
    print(f'{options.out / STRIP_FILE}, {options.out / CHANGES_FILE}, {options.out / LOG_FILE}')
    if silent := [change.asked for change in changes if not (change.refused or change.masks)]:
        raise RgbxSegError(f'no mask was made of {silent[0]}, for the model is slower than the '
                           'bag; expected one of each change: play it slower (--rate).')


def _parse() -> argparse.Namespace:
    parser = Arguments(prog='python -m demo.classes', description=__doc__)
    parser.add_argument('--bag', type=Path, required=True, help='rosbag2 folder, .mcap or .db3')
    parser.add_argument('--bundle', type=Path, required=True, help='folder of a model whose '
                        'classes may be chosen')
    parser.add_argument('--then', action='append', required=True, metavar='NAMES | FILE',
                        help='classes to ask for while the bag plays, with commas between them, or '
                        'a file of them; given again, the next ones')
    parser.add_argument('--out', type=Path, required=True, help='folder of what was recorded')
    parser.add_argument('--rate', type=float, default=1.0, help='speed of playing')
    parser.add_argument('--backend', default='auto', choices=('auto', *BACKENDS))
    for name in ('rgb', 'aux'):
        parser.add_argument(f'--{name}-topic', default='',
                            help='where the names of the topics do not tell')
    options = parser.parse_args()
    if not 0.05 <= options.rate <= 20:
        raise RgbxSegError(f'--rate is {options.rate:g}; expected 0.05 to 20.')
    return options


def _play(options: argparse.Namespace, timeline: Timeline, modality: str,
          changes: list[Change]) -> Image:
    """Play the bag and fill in `changes`, the start before them; return the strip."""
    from demo.session import record  # rclpy, which reads the environment

    asker = Asker(list(changes), (timeline.last_ns - timeline.first_ns) / 1e9 / options.rate)
    with tempfile.TemporaryFile(dir=options.out) as spool:
        session = record(timeline, options.bundle, modality, options.backend, options.rate,
                         options.out / LOG_FILE, spool, asker.beside)
        changes.insert(0, Change('as the bundle was exported'))
        _tell(changes, session.recorder)
        _check(changes, session.recorder)
        strip = _strip(changes, session.recorder.pictures('overlay'))
    if session.exit_code:
        raise RgbxSegError(f'the node ended with exit code {session.exit_code}, expected 0; see '
                           f'{options.out / LOG_FILE}.')
    return strip


def _tell(changes: Sequence[Change], recorder: Any) -> None:
    """Fill in what the node published of each change."""
    stamps: dict[int, list[int]] = {}
    for stats in recorder.stats:
        stamp = stats.header.stamp
        stamps.setdefault(stats.classes_version, []).append(stamp.sec * 10**9 + stamp.nanosec)
    version = -1
    for change in changes:
        before = stamps.get(version, [0])
        version += not change.refused
        info = recorder.infos.get(version)
        if info is None:
            raise RgbxSegError(f'no message told the classes of change {version}; expected one on '
                               '~/info; play the bag slower (--rate).')
        change.version, change.classes = version, list(info.class_names)
        change.colors = np.reshape(info.class_colors, (-1, 3)).tolist()
        own = stamps.get(version, [])
        change.masks = len(own)
        if not change.refused and own:
            change.before_ns, change.after_ns = before[-1], own[0]


def _check(changes: Sequence[Change], recorder: Any) -> None:
    """Raise unless every mask holds ids of the classes that its stats tell, and no others."""
    versions = {stats.header.stamp.sec * 10**9 + stats.header.stamp.nanosec: stats.classes_version
                for stats in recorder.stats}
    lengths = {change.version: len(change.classes) for change in changes}
    read = recorder.pictures('mask')
    for stamp, version in versions.items():
        mask = read(stamp)
        if mask is not None and not ((mask < lengths[version]) | (mask == 255)).all():
            raise RgbxSegError(f'the mask at {stamp} holds the id {mask.max()}, but the '
                               f'{lengths[version]} classes of change {version} are told of it; '
                               'expected ids of these: a defect of the node.')


def _told(change: Change) -> str:
    """Return one line on a change."""
    if change.refused:
        return f'{change.asked}: refused in {change.took_ms:.0f} ms: {change.refused}'
    when = f' in force after {change.took_ms:.0f} ms' if change.took_ms else ''
    return f'{change.asked}: {", ".join(change.classes)}{when}, {change.masks} masks'


def _strip(changes: Sequence[Change], read: Any) -> Image:
    """Return one picture of all changes: the overlays around each, and its classes."""
    rows: list[Image] = []
    for change in changes:
        pictures = [read(stamp) for stamp in (change.before_ns, change.after_ns) if stamp]
        shown = [_scaled(picture) for picture in pictures if picture is not None]
        gap = np.full((HEIGHT, MARGIN, 3), 255, np.uint8)
        parts = [part for picture in shown for part in (picture, gap)]
        word = 'refused' if change.refused else f'change {change.version}'
        words = [_line(f'{word}: {Path(change.asked).name}', BLACK),
                 *(_line(text, RED) for text in textwrap.wrap(change.refused, 90)),
                 *([] if change.refused else _legend(change))]
        rows += words + ([np.hstack(parts)] if parts else [])
    width = max(row.shape[1] for row in rows) + MARGIN
    return np.vstack([cv2.copyMakeBorder(row, MARGIN // 2, MARGIN // 2, MARGIN,
                                         width - row.shape[1], cv2.BORDER_CONSTANT, value=WHITE)
                      for row in rows])


def _scaled(picture: Image) -> Image:
    height, width = picture.shape[:2]
    return cv2.resize(picture, (round(width * HEIGHT / height), HEIGHT),
                      interpolation=cv2.INTER_AREA)


def _line(text: str, color: tuple[int, int, int]) -> Image:
    plain = text.encode('ascii', 'replace').decode()
    width = cv2.getTextSize(plain, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0] + MARGIN
    picture = np.full((LINE, width, 3), 255, np.uint8)
    return cv2.putText(picture, plain, (0, LINE - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, 1,
                       cv2.LINE_AA)


def _legend(change: Change) -> list[Image]:
    """Return lines of the classes with their colors, as many as are needed."""
    lines: list[Image] = []
    for name, color in zip(change.classes, change.colors, strict=True):
        chip = np.full((LINE, LINE, 3), 255, np.uint8)
        chip[4:-4, 2:-6] = color
        item = np.hstack([chip, _line(f'{name}  ', GRAY)])
        if lines and lines[-1].shape[1] + item.shape[1] < 2.7 * HEIGHT:
            lines[-1] = np.hstack([lines[-1], item])
        else:
            lines.append(item)
    return lines


if __name__ == '__main__':
    raise SystemExit(main())
