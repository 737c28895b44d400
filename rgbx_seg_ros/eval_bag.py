# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_eval_bag BAG... --bundle B --out DIR`: how good bundles are on the bags of a robot.

Every pair of every bag goes through the node's own steps; no ROS is needed, nothing is played. The
report is one page, one JSON and one table; each bag has a folder of its own. A bag that is done
already is not run again, so what is cut off goes on where it was.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.engine import BACKENDS
from rgbx_seg_ros.eval_jobs import open_pool
from rgbx_seg_ros.eval_merge import merged_rows
from rgbx_seg_ros.eval_pass import check_alike, names_of
from rgbx_seg_ros.eval_progress import Progress
from rgbx_seg_ros.eval_result import BagResult, load_result
from rgbx_seg_ros.eval_settings import EvalSettings, classes_given, node_settings
from rgbx_seg_ros.eval_summary import summarize
from rgbx_seg_ros.eval_tasks import (
    BAGS,
    PAGE_FILE,
    REPORT_FILE,
    TABLE_FILE,
    Task,
    check_target,
    expected_pairs,
    find_bags,
    key_of,
    locked,
    names_of_bags,
    read_key,
    replace_files,
)
from rgbx_seg_ros.manifest import PRECISIONS

MOST_NOTES = 5  # that the command prints
MAX_JOBS = 256
MAX_BUNDLES = 16


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of `rgbx_eval_bag`; return the exit code."""
    return run_command(lambda: _main(_parser().parse_args(args)))


def _parser() -> Arguments:
    parser = Arguments('rgbx_eval_bag', description='Evaluate bundles on bags; key=value sets a '
                       'parameter of the node, such as sync.max_skew=0.02.')
    add = parser.add_argument
    add('given', nargs='+', metavar='BAG | key=value', help='rosbag2 folder, .mcap or .db3 file, '
        'or a folder of rosbag2 folders')
    add('--bundle', type=Path, action='append', required=True, help='folder that rgbx_export '
        'wrote; given again, the others are compared with the first')
    add('--out', type=Path, required=True, help='folder of the report')
    add('--json', action='store_true', help='print the report as JSON')
    add('--params', type=Path, metavar='FILE', help="the node's parameters, as its launch takes "
        'them')
    add('--pair', default='', help='camera pair, where the parameters name several')
    for stream in ('rgb', 'aux', 'label'):
        add(f'--{stream}-topic', default='', help='default: told from the names of the topics')
    add('--labels', type=Path, metavar='DIR', help='labels as PNG files by stamp, in place of a '
        'topic')
    add('--palette', type=Path, metavar='FILE', help='YAML of the colors of color labels; '
        "default: the bundle's")
    add('--backend', choices=('auto', *BACKENDS), help='default: as the parameters say, or auto')
    add('--precision', choices=('auto', *PRECISIONS), help='likewise')
    add('--classes', default='', metavar='NAMES | FILE', help='classes to find, with commas '
        'between them, or a file of them (docs/classes.md); labels keep the ids of the bundle and '
        'are compared by name')
    add('--ablate-every', type=int, default=10, metavar='N', help='run every Nth pair without '
        'the aux image too, 0: none (default %(default)s)')
    add('--limit', type=int, default=0, metavar='N', help='pairs of each bag (default: all)')
    add('--pictures', type=int, default=6, metavar='N', help='worst and best frames shown '
        '(default %(default)s)')
    add('--no-video', dest='video', action='store_false', help='write no overlay.mp4')
    add('--write-bag', action='store_true', help='write bags with mask, confidence, overlay')
    add('--rerun', action='store_true', help='write recordings for Rerun')
    add('--jobs', type=int, default=0, metavar='N', help='bags evaluated at a time, each in a '
        'process with engines of its own (default: 1, of a cluster one for each machine)')
    add('--cluster', default='', metavar='ADDRESS', help='of Ray: ray://host:port, auto or local; '
        'bags, bundles and --out must lie on storage that all machines see under the same path, '
        'and all need this version of rgbx_seg_ros')
    add('--force', action='store_true', help='evaluate anew what is done already, too')
    return parser


def _settings(args: Namespace, given: dict[str, Any]) -> EvalSettings:
    """Return what is to be run; all paths absolute, as other processes have other folders."""
    for name, low, high in (('ablate_every', 0, 10**6), ('limit', 0, 10**9), ('pictures', 0, 100),
                            ('jobs', 0, MAX_JOBS)):
        value = getattr(args, name)
        if not low <= value <= high:
            raise RgbxSegError(f'--{name.replace("_", "-")} is {value}, expected {low} to {high}.')
    if len(args.bundle) > MAX_BUNDLES:
        raise RgbxSegError(f'--bundle was given {len(args.bundle)} times, expected {MAX_BUNDLES} '
                           'at most.')
    given |= {name: value for name, value in (('backend', args.backend),
                                              ('precision', args.precision)) if value}
    given |= classes_given(args.classes) if args.classes else {}
    for path, what in ((args.labels, 'folder'), (args.palette, 'file')):
        if path is not None and not (path.is_dir() if what == 'folder' else path.is_file()):
            raise RgbxSegError(f'{path}: no such {what}; check the path.')
    node = node_settings(args.params, given, args.pair)
    settings = EvalSettings(
        bundles=tuple(bundle.resolve() for bundle in args.bundle), **node,
        **{name: getattr(args, name) for name in (
            'rgb_topic', 'aux_topic', 'label_topic', 'ablate_every', 'limit', 'pictures', 'video',
            'write_bag', 'rerun')},
        labels=args.labels and args.labels.resolve(),
        palette=args.palette and args.palette.resolve())
    pipeline = settings.pair.pipeline
    if (file := pipeline.registration.file) is not None:
        registration = replace(pipeline.registration, file=file.resolve())
        settings = replace(settings, pair=replace(
            settings.pair, pipeline=replace(pipeline, registration=registration)))
    for name in ('engine_file', 'classes_file'):
        if (file := getattr(settings, name)) is not None:
            settings = replace(settings, **{name: file.resolve()})
    return settings


def _split(given: Sequence[str]) -> tuple[list[Path], dict[str, Any]]:
    """Return the bags and the parameters; an existing path is a bag, whatever it is called."""
    bags, values = [], {}
    for text in given:
        name, equals, value = text.partition('=')
        if not equals or Path(text).exists():
            bags.append(Path(text))
            continue
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise RgbxSegError(f'{text}: no value of a parameter, expected one such as '
                               'sync.max_skew=0.02.') from None
    if not bags:
        raise RgbxSegError('no bag was given, expected one at least.')
    return bags, values


def _check_bundles(settings: EvalSettings) -> str:
    """Return the modality of the bundles; RgbxSegError unless they can be judged alike."""
    names_of(settings.bundles)
    manifests = [settings.manifest_of(bundle) for bundle in settings.bundles]
    check_alike(manifests)
    return manifests[0].modality


def _main(args: Namespace) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the jobs too
    given, values = _split(args.given)
    settings = _settings(args, values)
    modality = _check_bundles(settings)
    out = args.out.resolve()
    check_target(out)
    bags = [bag.resolve() for bag in find_bags(given)]
    expected = [expected_pairs(bag, settings, modality) for bag in bags]
    with locked(out) as token:
        tasks = [Task(bag, name, '', out / BAGS / name, count, token) for bag, name, count in
                 zip(bags, names_of_bags(bags), expected, strict=True)]
        tasks, reasons, elapsed = _evaluate(args, settings, tasks)
        results = [load_result(task.folder) for task in tasks if task.name not in reasons]
        failed = [{'name': task.name, 'bag': str(task.bag), 'reason': reasons[task.name]}
                  for task in tasks if task.name in reasons]
        if not results:
            raise RgbxSegError(_failure(failed, len(tasks)))
        summary = write_report(out, settings, results, failed, elapsed)
    print(json.dumps(summary, indent=1, allow_nan=False) if args.json
          else '\n'.join(closing(summary, out)), flush=True)
    if failed:
        raise RgbxSegError(_failure(failed, len(tasks)))


def _evaluate(args: Namespace, settings: EvalSettings, tasks: Sequence[Task]
              ) -> tuple[list[Task], dict[str, str], dict[str, Any]]:
    """Evaluate what is not done; return the tasks with their keys, why some failed, the time."""
    with (Progress(sum(task.expected for task in tasks)) as progress,
          open_pool(settings, args.jobs, args.cluster, progress.tell) as pool):
        tasks = [replace(task, key=key_of(task.bag, settings, pool.bundles)) for task in tasks]
        due, others = [], {path.name for path in tasks[0].folder.parent.glob('[!.]*')}
        if others := others - {task.name for task in tasks}:
            progress.tell(f'{args.out / BAGS}: results of {len(others)} bag(s) that were not given '
                          f'now, such as {min(others)}, stay there and are not in the report.')
        for task in tasks:
            if not args.force and read_key(task.folder) == task.key:
                progress.tell(f'{task.name}: done already, its result is kept.')
                progress.skip(task.expected)
            else:
                due.append(task)
        began = time.monotonic()
        reasons = pool.run(due, progress.done)
        return tasks, reasons, {'run_s': time.monotonic() - began,
                                'run_bags': [task.name for task in due]}


def write_report(out: Path, settings: EvalSettings, results: Sequence[BagResult],
                 failed: Sequence[dict[str, str]], elapsed: dict[str, Any]) -> dict[str, Any]:
    """Write table, JSON and page of all bags into `out`; return what the JSON holds."""
    from rgbx_seg_ros.eval_page import render

    summary = summarize(results, settings, failed, elapsed)
    folders = {result.name: out / BAGS / result.name for result in results}

    def table(path: Path) -> None:
        with path.open('w', encoding='utf-8', newline='') as file:
            file.writelines(merged_rows(folders))

    page = render(summary, results, out)
    text = json.dumps(summary, indent=1, allow_nan=False) + '\n'
    replace_files(out, {TABLE_FILE: table, REPORT_FILE: partial(Path.write_text, data=text,
                                                                encoding='utf-8'),
                        PAGE_FILE: partial(Path.write_text, data=page, encoding='utf-8')})
    return summary


def closing(summary: dict[str, Any], out: Path) -> list[str]:
    """Return what the command says at its end, a line for each bundle and one for all."""
    lines = [_score_line(bundle['name'], scores) for bundle, scores in
             zip(summary['bundles'], summary['scores'], strict=True)]
    for change in summary['comparison']:
        if change['miou_change'] is not None:
            lines.append(f'{change["bundle"]} against {change["baseline"]}: mIoU '
                         f'{100 * change["miou_change"]:+.2f}' + _bounds(change['interval'], '+.2f')
                         + (f', better with {100 * change["probability_better"]:.0f} %'
                            if change['probability_better'] is not None else ''))
    if summary['bootstrap']['caveat'] and summary['scores'][0]['scored']:
        lines.append(f'note: {summary["bootstrap"]["caveat"]}')
    notes = [f'note: {bag["name"]}: {note}' for bag in summary['bags']
             for note in bag['sync'].get('notes') or ()]
    lines += notes[:MOST_NOTES]
    if len(notes) > MOST_NOTES:
        lines.append(f'note: {len(notes) - MOST_NOTES} more stand in the report.')
    skew = summary['sync']['skew_ms']
    pairs = sum(bag['pairs'] for bag in summary['bags'])
    return [*lines, f'{pairs} pairs of {len(summary["bags"])} bag(s), skew p50 '
            f'{_number(skew["p50"])} ms, p95 {_number(skew["p95"])} ms', _speed_line(summary),
            f'report: {out / PAGE_FILE}']


def _speed_line(summary: dict[str, Any]) -> str:
    timing = summary['timing']
    line = (f'real-time factor {_number(timing["real_time_factor"])}, '
            f'{_number(timing["pairs_per_s"])} pairs/s, engine share '
            f'{_number(timing["engine_share"])}')
    run = [bag for bag in summary['bags'] if bag['name'] in timing.get('run_bags', ())]
    if len(run) > 1 and timing['run_s'] < sum(
            one['wall_s'] for one in timing['bags'] if one['name'] in timing['run_bags']):
        factor = sum(bag['duration_s'] for bag in run) / timing['run_s']
        line += f' in each job; real-time factor {_number(factor)} in all'
    return line


def _score_line(name: str, scores: dict[str, Any]) -> str:
    if not scores['scored']:
        return (f'{name}: no labels; confidence {_number(scores["confidence"])}, consistency '
                f'{_number(scores["consistency"])}'
                + (f', agreement {_number(scores["agreement"])}' if scores['agreement'] is not None
                   else ''))
    return (f'{name}: mIoU {_percent(scores["miou"])}{_bounds(scores["miou_interval"], ".2f")}, '
            f'boundary IoU {_percent(scores["boundary_miou"])}, over {scores["scored"]} labeled '
            'frames')


def _bounds(interval: Sequence[float] | None, form: str) -> str:
    if interval is None:
        return ''
    low, high = (format(100 * bound, form) for bound in interval)
    return f' [{low}, {high}]'


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.2f}'


def _percent(value: float | None) -> str:
    return '-' if value is None else f'{100 * value:.2f} %'


def _failure(failed: Sequence[dict[str, str]], count: int) -> str:
    """Return one sentence on bags that failed."""
    if count == 1:
        return failed[0]['reason']
    others = f', as did {len(failed) - 1} more, see the report' if len(failed) > 1 else ''
    return f'{failed[0]["name"]}, of {count} bags, failed{others}: {failed[0]["reason"]}'


if __name__ == '__main__':
    raise SystemExit(main())
