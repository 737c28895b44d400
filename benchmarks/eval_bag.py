# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Times the evaluation of a bag beside its engine alone, on the same decoded pairs.

python -m benchmarks.eval_bag [BAG] [BUNDLE] [--backend B] [--wait-ms T] [--laps N] [--rounds N];
prints the Markdown table of docs/benchmarks/eval_bag.md. With --wait-ms the engine only waits, as a
processor waits for a GPU: what is left is the work of everything else. --laps repeats a short bag,
so that beginning and end weigh as little as in a long one.
"""

from __future__ import annotations

import argparse
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rgbx_seg_ros.bag import BagWriter, read_channels, read_messages
from rgbx_seg_ros.engine import Engine, EngineInfo, Scene, Tensor
from rgbx_seg_ros.eval_frames import BagPair
from rgbx_seg_ros.eval_pass import Evaluator
from rgbx_seg_ros.eval_settings import EvalSettings, node_settings
from rgbx_seg_ros.eval_source import open_source
from rgbx_seg_ros.pipeline import Pipeline

ROOT = Path(__file__).resolve().parents[1]
FORMS: dict[str, dict[str, bool | int]] = {  # what is written beside the numbers
    'numbers alone': {'video': False, 'pictures': 0, 'ablate_every': 0},
    'with pictures and video': {'ablate_every': 0},
    'as it comes: every tenth pair also without aux': {},
    'with the output bag': {'write_bag': True}}


class Waiting(Engine):
    """An engine that keeps nobody from the processor: it waits, and gives the dummy's answer."""

    def __init__(self, dummy: Engine, wait_s: float) -> None:
        """Take the dummy, and how long to wait for each pair."""
        self.info: EngineInfo = dummy.info
        self._dummy, self._wait_s = dummy, wait_s

    def __call__(self, rgb: Tensor, aux: Tensor, scene: Scene | None = None
                 ) -> tuple[Tensor, Tensor]:
        """Wait, and return the dummy's answer."""
        time.sleep(self._wait_s)
        return self._dummy(rgb, aux, scene)

    def embed(self, rgb: Tensor, aux: Tensor) -> Scene:
        """Return the dummy's answer."""
        return self._dummy.embed(rgb, aux)

    def close(self) -> None:
        """Close the dummy."""
        self._dummy.close()


def repeated(bag: Path, laps: int, folder: Path) -> Path:
    """Return a bag that holds another one several times, stamps and receptions moved on."""
    messages = list(read_messages(bag))
    span_ns = messages[-1].received_ns - messages[0].received_ns + 100_000_000
    with BagWriter(folder / 'bag') as writer:
        for channel in read_channels(bag):
            writer.add_channel(channel)
        for shift_ns in range(0, laps * span_ns, span_ns):
            for message in messages:
                data = bytearray(message.data)  # CDR: four bytes of its kind, then the header
                seconds, rest = struct.unpack_from('<iI', data, 4)
                stamp_ns = seconds * 1_000_000_000 + rest + shift_ns
                struct.pack_into('<iI', data, 4, *divmod(stamp_ns, 1_000_000_000))
                writer.copy(message._replace(received_ns=message.received_ns + shift_ns,
                                             data=bytes(data)))
    return folder / 'bag'


def alone(evaluator: Evaluator, pairs: Sequence[BagPair]) -> float:
    """Return the pairs a second of the segmenter, and nothing else, on pairs that are prepared."""
    pipeline = Pipeline(evaluator.segmenters[0], evaluator.settings.pair.pipeline)
    ready = []
    for pair in pairs:
        one = pipeline.prepare(pair.rgb, pair.aux, pair.aux_encoding, pair.stamp_ns)
        ready.append(one._replace(aux=one.aux.copy()))
    began = time.perf_counter()
    for pair, prepared in zip(pairs, ready, strict=True):
        pipeline.finish(prepared, pair.stamp_ns)
    return len(pairs) / (time.perf_counter() - began)


def evaluated(evaluator: Evaluator, bag: Path) -> tuple[float, float]:
    """Return the runs of the engine a second in an evaluation, and the engine's share of it."""
    with tempfile.TemporaryDirectory() as folder:
        result = evaluator(bag, 'bag', 'key', Path(folder))
    records = result.records[0]
    runs = len(records) + sum(record.aux_change == record.aux_change for record in records)
    return runs / result.timing['wall_s'], result.timing['engine_s'] / result.timing['wall_s']


def main() -> None:
    """Read the arguments, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('bag', type=Path, nargs='?', default=ROOT / 'sample' / 'bag')
    parser.add_argument('bundle', type=Path, nargs='?', default=ROOT / 'sample' / 'bundle')
    parser.add_argument('--backend', default='auto')
    parser.add_argument('--wait-ms', type=float, default=0.0)
    parser.add_argument('--laps', type=int, default=8)
    parser.add_argument('--rounds', type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        args.bag = repeated(args.bag, args.laps, Path(folder))
        measure(args)


def measure(args: argparse.Namespace) -> None:
    """Open an engine for each form, and let the forms take turns."""
    backend = 'dummy' if args.wait_ms else args.backend
    settings = node_settings(None, {'backend': backend})
    evaluators = [Evaluator(EvalSettings(bundles=(args.bundle,), **settings, **form))
                  for form in FORMS.values()]
    if args.wait_ms:
        for evaluator in evaluators:
            segmenter = evaluator.segmenters[0]
            segmenter.engine = Waiting(segmenter.engine, args.wait_ms / 1e3)
    first = evaluators[0]
    pairs = list(open_source(args.bag, first.settings, first.segmenters[0].manifest))
    table(args.rounds, lambda: alone(first, pairs),
          {name: evaluator for name, evaluator in zip(FORMS, evaluators, strict=True)}, args.bag)
    for evaluator in evaluators:
        evaluator.close()


def table(rounds: int, engine: Callable[[], float], forms: dict[str, Evaluator], bag: Path
          ) -> None:
    """Print a row for each form: runs a second, their ratio to the engine's own of the round."""
    speeds: list[float] = []
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in forms}
    for _ in range(rounds):
        speeds.append(engine())
        for name, evaluator in forms.items():
            speed, share = evaluated(evaluator, bag)
            found[name].append((speed, speed / speeds[-1], share))
    print('| | engine runs a second | of the engine alone | engine share |\n|---|---|---|---|')
    print(f'| the engine alone, pairs in memory | {statistics.median(speeds):.1f} | 1 | |')
    for name, rows in found.items():
        speed, ratio, share = (statistics.median(column) for column in zip(*rows, strict=True))
        low, high = min(row[1] for row in rows), max(row[1] for row in rows)
        print(f'| {name} | {speed:.1f} | {ratio:.2f} ({low:.2f} to {high:.2f}) | {share:.2f} |')


if __name__ == '__main__':
    main()
