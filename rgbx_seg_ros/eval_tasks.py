# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The bags of an evaluation as tasks: their names, their keys, and folders that appear whole.

A task is done if its folder holds a result of the same key, which tells the bag, the bundles and
engines, and all settings. A folder is written under a hidden name beside its own and renamed when
all is in it, so that an evaluation that is cut off leaves nothing that looks like a result.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from rgbx_seg_ros import RgbxSegError, __version__
from rgbx_seg_ros.eval_calibration import Kinds
from rgbx_seg_ros.eval_result import MAX_RESULT_BYTES, load_result
from rgbx_seg_ros.eval_settings import EvalSettings
from rgbx_seg_ros.manifest import MANIFEST_FILE, sha256_of

PAGE_FILE, REPORT_FILE, TABLE_FILE, BAGS = 'index.html', 'report.json', 'frames.csv', 'bags'
KEYS = {'format', 'bags', 'scores'}  # of the report
LOCK_FILE = '.lock'
METADATA = 'metadata.yaml'
STORAGE_SUFFIXES = ('.mcap', '.db3')
MAX_BAGS = 10_000
MAX_LOCK_CHARACTERS = 500


@dataclass(frozen=True)
class Task:
    """One bag to be evaluated; it can be pickled."""

    bag: Path
    name: str  # of the folder
    key: str
    folder: Path  # where the result is to appear
    expected: int  # pairs, at most, for the progress
    token: str = ''  # what the lock file holds: another machine with another disk has not got it


def find_bags(given: Sequence[Path]) -> list[Path]:
    """Return the bags: those given, and of a folder that is none all that lie in it, sorted.

    Raises:
        RgbxSegError: something is no bag, is there twice, or a folder holds none.

    """
    bags = [bag for path in given for bag in ([path] if _is_bag(path) else _bags_in(path))]
    places: dict[Path, Path] = {}
    for bag in bags:
        place = bag.resolve()
        if place in places:
            raise RgbxSegError(f'{bag}: given twice, also as {places[place]}; expected each bag '
                               'once, or it would count double.')
        places[place] = bag
    if len(bags) > MAX_BAGS:
        raise RgbxSegError(f'{len(bags)} bags, expected {MAX_BAGS} at most; evaluate them in '
                           'several reports.')
    return bags


def _is_bag(path: Path) -> bool:
    """Return whether a path is a bag, or shall be complained of as one."""
    return (not path.is_dir() or (path / METADATA).exists()
            or any(file.suffix in STORAGE_SUFFIXES for file in path.iterdir()))


def _bags_in(folder: Path) -> list[Path]:
    found = sorted(path.parent for path in folder.rglob(METADATA)
                   if not any(part.startswith('.') for part in path.relative_to(folder).parts))
    if not found:
        raise RgbxSegError(f'{folder}: the folder is no bag and holds none, expected a rosbag2 '
                           'folder, .mcap or .db3 file, or a folder of rosbag2 folders.')
    return found


def names_of_bags(bags: Sequence[Path]) -> list[str]:
    """Return a name for the folder of each bag: its own, with its parents' where two are alike."""
    parts = [(*bag.resolve().parent.parts[1:], _stem(bag)) for bag in bags]
    depths = [1] * len(bags)
    while True:
        names = ['-'.join(_safe(part) for part in part[-depth:])
                 for part, depth in zip(parts, depths, strict=True)]
        often = Counter(name.lower() for name in names)  # there are disks that tell no A from a
        twice = [n for n, name in enumerate(names) if often[name.lower()] > 1]
        if not twice:
            return names
        if all(depths[n] >= len(parts[n]) for n in twice):  # x and X, x y and x_y, bag and .bag
            parts = [(*part[:-1], f'{part[-1]}-{n}') if n in twice else part
                     for n, part in enumerate(parts)]
            continue
        for n in twice:
            depths[n] = min(depths[n] + 1, len(parts[n]))


def _stem(bag: Path) -> str:
    bag = bag.resolve()
    return bag.stem if bag.suffix in STORAGE_SUFFIXES else bag.name


def _safe(name: str) -> str:
    """Return a name that is one everywhere, in a URL too, and is not hidden."""
    return re.sub(r'[^A-Za-z0-9._-]+', '_', name).lstrip('.') or '_'


def expected_pairs(bag: Path, settings: EvalSettings, modality: str) -> int:
    """Return how many pairs a bag can have; RgbxSegError if it lacks the topics."""
    kinds = Kinds(bag)
    topics = kinds.choose(settings, modality)
    count = min(kinds.count(topics.rgb), kinds.count(topics.aux))
    return min(count, settings.limit) if settings.limit else count


def key_of(bag: Path, settings: EvalSettings, bundles: Sequence[Mapping[str, Any]]) -> str:
    """Return the SHA-256 of all that decides the result of a bag.

    Of large files, those of bags and labels, it takes names, sizes and times; `bundles` are what
    the engines say of themselves.
    """
    told = {'version': __version__, 'bag': _stats(bag), 'engines': list(bundles),
            'settings': _contents(settings),
            'manifests': [sha256_of(bundle / MANIFEST_FILE) for bundle in settings.bundles],
            'labels': _stats(settings.labels) if settings.labels else None}
    text = json.dumps(told, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _stats(path: Path) -> list[tuple[str, int, int]]:
    files = sorted(path.rglob('*')) if path.is_dir() else [path]
    return [(str(file.relative_to(path.parent)), file.stat().st_size, file.stat().st_mtime_ns)
            for file in files if file.is_file()]


def _contents(value: Any) -> Any:
    """Return settings with the contents of files in place of their names, but for bundles."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _contents(getattr(value, field.name)) for field in fields(value)
                if field.name not in ('bundles', 'labels')}
    if isinstance(value, Path):
        return sha256_of(value) if value.is_file() else str(value)
    return value


def read_key(folder: Path) -> str:
    """Return the key of the result in a folder, '' where there is none or it is not whole."""
    try:
        return load_result(folder).key
    except RgbxSegError:
        return ''


def check_target(out: Path) -> None:
    """Raise unless `out` is new, empty, or what an earlier evaluation wrote."""
    if not out.exists():
        return
    if not out.is_dir():
        raise RgbxSegError(f'--out {out} is a file, expected a folder; choose another name.')
    names = {path.name for path in out.iterdir()}
    ours = {PAGE_FILE, REPORT_FILE, TABLE_FILE, BAGS, LOCK_FILE}
    strange = sorted(name for name in names - ours if not _is_leftover(name))
    if not strange and REPORT_FILE in names and not is_report(out / REPORT_FILE, KEYS):
        strange = [REPORT_FILE]  # of something else, such as the demo
    if strange:
        raise RgbxSegError(f'--out {out} holds {strange[0]}, which no evaluation wrote; expected a '
                           'new folder, or that of an earlier evaluation; choose another name.')


def _is_leftover(name: str) -> bool:
    return any(re.fullmatch(rf'\.{re.escape(own)}\.[0-9a-f]{{8}}', name)
               for own in (PAGE_FILE, REPORT_FILE, TABLE_FILE))


def is_report(file: Path, keys: Set[str]) -> bool:
    """Tell whether a file is a JSON object of a report's size that has all of some keys."""
    try:
        if file.stat().st_size > MAX_RESULT_BYTES:
            return False
        return keys <= json.loads(file.read_text('utf-8')).keys()
    except (OSError, ValueError, AttributeError):
        return False


@contextmanager
def locked(out: Path) -> Iterator[str]:
    """Hold a folder for one evaluation, rid of what an earlier one left half; yields a token.

    Raises:
        RgbxSegError: another evaluation holds it.

    """
    (out / BAGS).mkdir(parents=True, exist_ok=True)
    with (out / LOCK_FILE).open('a+', encoding='utf-8', errors='replace') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read(MAX_LOCK_CHARACTERS).partition(';')[0] or 'another process'
            raise RgbxSegError(f'--out {out} is being written by {owner}, expected a folder of '
                               'one evaluation; wait for its end, or choose another.') from None
        except OSError:
            pass  # a disk of the network without locks: then the user takes care
        token = f'process {os.getpid()} on {socket.gethostname()}; {os.urandom(8).hex()}'
        file.truncate(0)
        file.write(token)
        file.flush()
        try:
            _clean(out)
            yield token
        finally:
            _clean(out)
            file.truncate(0)


def _clean(out: Path) -> None:
    for path in (out / BAGS).glob('.*'):
        shutil.rmtree(path, ignore_errors=True)
    for path in out.iterdir():
        if _is_leftover(path.name):
            path.unlink(missing_ok=True)


def check_storage(task: Task) -> None:
    """Raise unless this machine sees the bag, and the very folder where results are collected."""
    lock = task.folder.parents[1] / LOCK_FILE
    token = ''
    with suppress(OSError):
        token = lock.read_text('utf-8', 'replace')[:MAX_LOCK_CHARACTERS]
    for place, good in ((lock.parent, token == task.token), (task.bag, task.bag.exists())):
        if not good:
            raise RgbxSegError(f'{socket.gethostname()} does not see {place} of the machine that '
                               'gave the order, expected storage that all machines of the cluster '
                               'share under the same path; mount it there.')


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `folder` that takes its place, or vanishes after an error."""
    hidden = _hidden(folder)
    hidden.mkdir()
    try:
        yield hidden
        old = _hidden(folder)
        if folder.exists():
            os.replace(folder, old)
        os.replace(hidden, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _hidden(path: Path) -> Path:
    return path.with_name(f'.{path.name}.{os.urandom(4).hex()}')


def replace_files(folder: Path, files: Mapping[str, Callable[[Path], object]]) -> None:
    """Write files by functions, then put all in their places one after the other."""
    hidden = {name: _hidden(folder / name) for name in files}
    try:
        for name, write in files.items():
            write(hidden[name])
        for name, path in hidden.items():
            os.replace(path, folder / name)
    finally:
        for path in hidden.values():
            path.unlink(missing_ok=True)
