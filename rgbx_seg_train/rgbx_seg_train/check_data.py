# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_check_data KIND ROOT` or `rgbx_check_data CONFIG.yaml`: whether data sets are whole.

Every file is decoded and every label's value looked at. One table shows all splits, a list below it
what is wrong; the command fails if anything is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.register import write_atomically
from rgbx_seg_train.config import SOURCES, Config, FolderSource, Source, SyntheticSource
from rgbx_seg_train.config_file import load_config, override, parse_config
from rgbx_seg_train.data.check import verify_modality
from rgbx_seg_train.data.folder import FolderDataset
from rgbx_seg_train.data.inspection import ROLES, Known, Report, inspect_set
from rgbx_seg_train.data.labels import CLASS_SETS
from rgbx_seg_train.data.public import PublicSet
from rgbx_seg_train.data.public_sets import PUBLIC_SETS
from rgbx_seg_train.data.sources import own_classes_of

NAMED = 5  # files of each problem; the others are counted
KINDS = tuple(kind for kind in SOURCES if kind != SyntheticSource.kind)


def check(config: Config) -> list[Report]:
    """Return what every source of a configuration is like, each once; rendered ones have no files.

    Raises:
        OSError: a file is there, but not to be read.

    """
    known, reports = {}, []
    for source, labeled in _sources(config):
        alike = {name: '' for name in ('split', 'part') if hasattr(source, name)}
        reports.append(_check(source, labeled, config, known.setdefault(
            (replace(source, weight=1.0, **alike), labeled), {})))
    return reports


def problems_of(report: Report) -> list[str]:
    """Return one sentence for each kind of thing that is wrong with a split."""
    if report.failure:
        return [f'{report.title}: {report.failure}']
    found = []
    if report.official not in (None, report.samples):
        found.append(f'{report.samples} samples, officially {report.official}')
    for role in ROLES:
        paths = report.missing[role]
        if paths and not (role == 'label' and report.unlabeled_allowed):
            found.append(f'{len(paths)} {role} missing: {_some(paths)}')
    found += [f'{len(sentences)} {title}: {_some(sentences)}' for title, sentences in (
        ('unreadable', report.unreadable), ('with wrong values', report.wrong),
        ('of differing sizes', report.differing)) if sentences]
    return [f'{report.title}: {text}' for text in found]


def table_of(reports: Sequence[Report]) -> str:
    """Return a table with a column for each split: counts, then each class's share of pixels."""
    names = dict.fromkeys(name for report in reports for name in report.class_names)
    counted: list[tuple[str, Callable[[Report], Any]]] = [
        ('samples', lambda r: r.samples), ('officially', lambda r: r.official),
        *((f'{role} missing', lambda r, role=role: len(r.missing[role])) for role in ROLES),
        ('unreadable', lambda r: len(r.unreadable)), ('wrong values', lambda r: len(r.wrong)),
        ('label of another size', lambda r: len(r.differing)),
        ('aux of another size', lambda r: r.aux_resized)]
    shares: list[tuple[str, Callable[[Report], Any]]] = [
        ('ignored pixels (255), %', lambda r: _percent(r.ignored)),
        *((f'{name}, %', lambda r, name=name: _percent(r.share(name))) for name in names)]
    rows = [['', *(report.title for report in reports)]]
    for title, value in (*counted, *shares):
        cells = ['' if report.failure else value(report) for report in reports]
        rows.append([title, *('-' if cell is None else str(cell) for cell in cells)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ['  '.join([row[0].ljust(widths[0]),
                        *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:],
                                                                   strict=True))]).rstrip()
             for row in rows]
    return '\n'.join([lines[0], '-' * max(map(len, lines)), *lines[1:]])


def to_dict(report: Report) -> dict[str, Any]:
    """Return a report with all of its files, as JSON takes it."""
    shares = {name: report.share(name) for name in report.class_names}
    return {'split': report.title, 'failure': report.failure, 'samples': report.samples,
            'official': report.official, 'missing': report.missing,
            'unreadable': report.unreadable, 'wrong': report.wrong,
            'differing': report.differing, 'aux_resized': report.aux_resized,
            'unlabeled_share': report.ignored, 'class_shares': shares,
            'problems': problems_of(report)}


def _sources(config: Config) -> Iterator[tuple[Source, bool]]:
    """Yield each source that has files once, and whether its labels are used."""
    data = config.data
    labeled = dict.fromkeys(replace(source, weight=1.0) for source in
                            (*data.train, *data.validate, *data.test))
    unlabeled = dict.fromkeys(replace(source, weight=1.0) for source in data.unlabeled)
    for source in (*labeled, *(source for source in unlabeled if source not in labeled)):
        if not isinstance(source, SyntheticSource):
            yield source, source in labeled


def _check(source: Source, labeled: bool, config: Config, known: Known) -> Report:
    title = _title(source)
    try:
        samples = _open(source, labeled, config)
        verify_modality(samples, config.model.modalities)
    except RgbxSegError as error:
        return Report(title, failure=str(error))
    own = own_classes_of(source, config.data)
    infos = CLASS_SETS.get(own, config.data.class_infos)
    report = inspect_set(samples, title, tuple(info.name for info in infos), known)
    report.unlabeled_allowed = isinstance(source, FolderSource)
    return report


def _open(source: Source, labeled: bool, config: Config) -> PublicSet:
    """Return the samples of a source, whether or not their files are there."""
    if not isinstance(source, FolderSource):
        return PUBLIC_SETS[source.kind](source, labeled, Path(config.data.cache))
    own = own_classes_of(source, config.data)
    return FolderDataset(source, source.modality or config.data.modality,
                         CLASS_SETS.get(own, config.data.class_infos), own, labeled)


def _title(source: Source) -> str:
    part = source.part if isinstance(source, FolderSource) else source.split
    name = Path(source.root).name if isinstance(source, FolderSource) else source.kind
    return f'{name} {part}'


def _some(texts: Sequence[str]) -> str:
    texts = [*dict.fromkeys(texts)]  # what is wrong with a whole set comes with each file
    more = len(texts) - NAMED
    return '; '.join([*texts[:NAMED], *([f'and {more} more'] if more > 0 else [])])


def _percent(share: float | None) -> str | None:
    return None if share is None else f'{100 * share:.2f}'


def _config_of(what: str, rest: Sequence[str]) -> Config:
    """Return a configuration of what the arguments name: a file, or a kind and its folder."""
    if Path(what).suffix in ('.yaml', '.yml'):
        return load_config(Path(what), rest)
    if what not in KINDS:
        raise RgbxSegError(f'{what} is no kind of data set; expected {", ".join(KINDS)}, or a '
                           'configuration (.yaml).')
    if not rest or '=' in rest[0]:
        raise RgbxSegError(f'no folder is given; expected `rgbx_check_data {what} ROOT`; name it.')
    given = override({'kind': what, 'root': rest[0]}, rest[1:])
    config = parse_config({'data': {'test': [given]}}, 'the arguments')
    source = config.data.test[0]
    if what == FolderSource.kind or 'split' in given:
        return config
    splits = PUBLIC_SETS[what].splits_of(source)
    tests = tuple(replace(source, split=split) for split in splits)
    return replace(config, data=replace(config.data, test=tests))


def _parser() -> Arguments:
    parser = Arguments(prog='rgbx_check_data', description='Check data sets: are all files there, '
                       'readable, and labeled with known classes?')
    parser.add_argument('what', metavar='KIND|CONFIG', help='a configuration (.yaml), or a kind of '
                        f'data set: {", ".join(KINDS)}')
    parser.add_argument('rest', nargs='*', default=[], metavar='ROOT, key=value',
                        help='of a kind: its folder and settings such as split=test; of a '
                        'configuration: settings that win over the file')
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write all that was found')
    return parser


def _main() -> None:
    args = _parser().parse_args()
    reports = check(_config_of(args.what, args.rest))
    if not reports:
        raise RgbxSegError(f'{args.what}: it names no data set that has files; expected one; add '
                           'it.')
    print(table_of(reports))
    problems = [text for report in reports for text in problems_of(report)]
    for text in problems:
        print(f'- {text}')
    if args.json:
        found = json.dumps({'splits': [to_dict(report) for report in reports]}, indent=1)
        write_atomically(args.json, found.encode())
    if problems:
        raise RgbxSegError(f'{len(problems)} problems, listed above; expected none; restore or '
                           'correct these files.')


def main() -> int:
    """Run the command `rgbx_check_data`."""
    return run_command(_main)


if __name__ == '__main__':
    raise SystemExit(main())
