# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Engines that were built once, found again by all that they were built from.

An engine is a file named by the SHA-256 of its parts: the graph, the library and its version, the
GPU, the options. The sidecar beside it, `<engine>.json`, holds those parts in words and the SHA-256
of the engine, and is written last: an engine without one is half of one. One lock keeps builders
apart, also those of different engines, since each would count on the memory that it finds free.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from rgbx_seg_ros import RgbxSegError, __version__
from rgbx_seg_ros.engine_lock import LOCK_FILE, Tell, locked
from rgbx_seg_ros.manifest import sha256_of

Parts = Mapping[str, str]  # what an engine is built from, each part by its name, in words

SUFFIX = '.engine'
MAX_SIDECAR_BYTES = 1 << 20
SPARE_PLACES = (tempfile.gettempdir, lambda: '/dev/shm')  # for an engine that cannot be kept


class Entry(NamedTuple):
    """An engine and what its sidecar says of it."""

    path: Path
    parts: Parts
    about: Parts  # what is told of it and makes no difference: bundle, graph
    sha256: str
    size: int  # bytes
    seconds: float  # that its build took
    made: str  # ISO 8601, UTC


def folder() -> Path:
    """Return where engines are kept: $XDG_CACHE_HOME/rgbx_seg/engines, by default in ~/.cache."""
    base = os.environ.get('XDG_CACHE_HOME', '')
    if not os.path.isabs(base):  # the specification has relative ones ignored
        try:
            base = str(Path.home() / '.cache')
        except RuntimeError:
            raise RgbxSegError('this user has no home folder to keep engines in; expected HOME or '
                               'an absolute XDG_CACHE_HOME: set one of them.') from None
    return Path(base) / 'rgbx_seg' / 'engines'


def key_of(parts: Parts) -> str:
    """Return the SHA-256 of all parts as 64 hexadecimal digits, whatever their order."""
    text = json.dumps(dict(parts), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def obtain(parts: Parts, about: Parts, build: Callable[[], bytes], tell: Tell,
           force: bool = False) -> tuple[Entry, bool]:
    """Return the engine of these parts, and True if it was built for that and not found.

    `tell` hears why it is built, and whom it waits for. An engine that cannot be kept is put into
    a temporary folder of this process.

    Raises:
        RgbxSegError: `build` raised it, or there is no place at all to write to.

    """
    path = folder() / f'{key_of(parts)}{SUFFIX}'
    reason = 'a new one was asked for'
    if not force:
        entry, reason = find(path, parts)
        if entry is not None:
            _touch(path)
            return entry, False
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path.parent, f'{_name(about)} for {parts["library"]}', tell))
        except OSError as error:
            tell(f'{path.parent} cannot be used ({error.strerror or error}), expected a folder '
                 'that can be written; check XDG_CACHE_HOME and its permissions; until then the '
                 'engine is built at each start.')
            return _keep(None, parts, about, build, tell), True
        entry, _ = find(path, parts)
        if entry is not None and not force:  # another process built it meanwhile
            return entry, False
        _remove_rests(path.parent)
        tell(f'{_name(about)}: {reason or _why_new(parts, about)}, so it is built.')
        return _keep(path, parts, about, build, tell), True


def find(path: Path, parts: Parts | None = None) -> tuple[Entry | None, str]:
    """Return the sound engine at `path`, or None and why not; without a reason if none is there.

    With `parts` it must have been built from exactly these.
    """
    try:
        size = path.stat().st_size
        entry = read_sidecar(path)
        if parts is not None and dict(entry.parts) != dict(parts):
            return None, f'it is a foreign one ({differ(entry.parts, parts)})'
        if size != entry.size:
            return None, f'it is damaged ({size} bytes, expected {entry.size})'
        if sha256_of(path) != entry.sha256:
            return None, 'it is damaged (its SHA-256 is another)'
    except FileNotFoundError:
        return None, ''
    except RgbxSegError as error:
        return None, str(error).partition(';')[0]
    except OSError as error:
        return None, f'it cannot be read ({error.strerror})'
    return entry, ''


def read_sidecar(path: Path) -> Entry:
    """Return what the sidecar of an engine says; RgbxSegError if it has none or not one of ours."""
    sidecar = _sidecar(path)
    try:
        if sidecar.stat().st_size > MAX_SIDECAR_BYTES:
            raise ValueError
        data = json.loads(sidecar.read_text(encoding='utf-8'))
        entry = Entry(path, data['parts'], data['about'], data['sha256'], data['size'],
                      data['seconds'], data['made'])
        words = [*entry.parts.items(), *entry.about.items(), (entry.sha256, entry.made)]
        if not all(isinstance(text, str) for pair in words for text in pair):
            raise ValueError
        if not isinstance(entry.size, int) or not isinstance(entry.seconds, (int, float)):
            raise ValueError
    except FileNotFoundError:
        raise RgbxSegError(f'{path} has no {sidecar.name} beside it; expected both files that '
                           '`rgbx_build_engine` writes: build the engine again.') from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RgbxSegError(f'{sidecar} is not what `rgbx_build_engine` writes; expected the parts '
                           'of the engine as JSON: build the engine again.') from None
    return entry


def differ(found: Parts, expected: Parts) -> str:
    """Return in words in what an engine differs from what is expected; '' if in nothing."""
    return '; '.join(f'{name} {short(found.get(name, "not told"))}, expected '
                     f'{short(expected.get(name, "none"))}'
                     for name in {**expected, **found} if found.get(name) != expected.get(name))


def short(text: str) -> str:
    """Return a SHA-256 cut to what the eye compares, any other text as it is."""
    return f'{text[:12]}…' if len(text) == 64 and ' ' not in text else text


def entries() -> list[Entry]:
    """Return the engines of the cache that have a sidecar, the last used first."""
    found = []
    for path in folder().glob(f'*{SUFFIX}'):
        with suppress(RgbxSegError, OSError):
            found.append((path.stat().st_mtime, read_sidecar(path)))
    return [entry for _, entry in sorted(found, key=lambda pair: pair[0], reverse=True)]


def size_mb() -> float:
    """Return how much the cache holds, in MB, with all that lies beside the engines."""
    with suppress(OSError):
        return sum(path.stat().st_size for path in folder().iterdir()) / 1e6
    return 0.0


def prune(days: float, tell: Tell) -> int:
    """Remove what was not used for so many days, and the rests of broken builds; return bytes."""
    place, freed = folder(), 0
    if not place.is_dir():
        return 0
    with locked(place, 'removing old engines', tell):
        freed += _remove_rests(place)
        oldest = time.time() - days * 86400
        for path in sorted(place.iterdir()):
            with suppress(FileNotFoundError):  # another process replaces a file meanwhile
                if path.name != LOCK_FILE and _is_old(path, oldest):
                    freed += _remove(path)
    return freed


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and so that it outlives a loss of power."""
    handle, name = tempfile.mkstemp(prefix=f'.{path.name}.', suffix='.tmp', dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
        place = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)
    finally:
        temporary.unlink(missing_ok=True)


def copy(entry: Entry, path: Path) -> None:
    """Copy an engine and its sidecar to another place, the sidecar last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sidecar(path).unlink(missing_ok=True)
    write_atomically(path, entry.path.read_bytes())
    write_atomically(_sidecar(path), _to_json(entry))


def _keep(path: Path | None, parts: Parts, about: Parts, build: Callable[[], bytes],
          tell: Tell) -> Entry:
    """Build an engine and write it, to a spare place where `path` is None or cannot be written."""
    begun = time.monotonic()
    plan = build()
    made = datetime.now(timezone.utc).isoformat(timespec='seconds')
    entry = Entry(path or Path(), parts, about, hashlib.sha256(plan).hexdigest(), len(plan),
                  round(time.monotonic() - begun, 2), made)
    if path is not None:
        try:
            _write(entry, plan)
            return entry
        except OSError as error:
            tell(f'{path.parent} cannot hold the engine of {len(plan) / 1e6:.0f} MB '
                 f'({error.strerror or error}); free some space or set XDG_CACHE_HOME; until then '
                 'it is built at each start.')
    for spare in SPARE_PLACES:
        with suppress(OSError):
            place = Path(tempfile.mkdtemp(prefix='rgbx_seg-', dir=spare()))
            atexit.register(shutil.rmtree, place, ignore_errors=True)
            entry = entry._replace(path=place / f'{key_of(parts)}{SUFFIX}')
            _write(entry, plan)
            return entry
    raise RgbxSegError(f'the engine of {len(plan) / 1e6:.0f} MB can be written nowhere; expected '
                       f'that much free space in {folder()} or {tempfile.gettempdir()}: free some, '
                       'or set XDG_CACHE_HOME to a folder that has it.')


def _write(entry: Entry, plan: bytes) -> None:
    """Write an engine, then its sidecar; leave neither if that fails."""
    _sidecar(entry.path).unlink(missing_ok=True)
    try:
        write_atomically(entry.path, plan)
        write_atomically(_sidecar(entry.path), _to_json(entry))
    except OSError:
        _remove(entry.path)
        raise


def _to_json(entry: Entry) -> bytes:
    data = {'parts': dict(entry.parts), 'about': dict(entry.about), 'sha256': entry.sha256,
            'size': entry.size, 'seconds': entry.seconds, 'made': entry.made,
            'made by': f'rgbx_seg_ros {__version__}'}
    return (json.dumps(data, indent=1, ensure_ascii=False) + '\n').encode()


def _sidecar(path: Path) -> Path:
    return path.with_name(f'{path.name}.json')


def _name(about: Parts) -> str:
    return f'the engine of {about.get("graph", "a graph")}'


def _why_new(parts: Parts, about: Parts) -> str:
    """Return why there is none yet, by the engine of this graph that has most of the parts."""
    like = [entry for entry in entries() if entry.about == about
            and entry.parts.get('library') == parts['library']]
    if not like:
        return f'{folder()} has none yet'
    nearest = min(like, key=lambda entry: sum(
        entry.parts.get(name) != value for name, value in parts.items()))
    return f'{folder()} has another one ({differ(nearest.parts, parts)})'


def _is_old(path: Path, oldest: float) -> bool:
    """Return whether a file of the cache was not used for long, or is a part of nothing."""
    if path.suffix == '.json':  # it goes with its engine, which comes before it in the alphabet
        return not path.with_suffix('').exists()
    half = path.suffix == SUFFIX and not _sidecar(path).exists()
    return half or path.stat().st_mtime <= oldest


def _touch(path: Path) -> None:
    """Let `prune` see that an engine is in use."""
    with suppress(OSError):
        os.utime(path)


def _remove_rests(place: Path) -> int:
    """Remove what killed builders left half written; the caller holds the lock."""
    return sum(_remove(path) for path in place.glob(f'.*{SUFFIX}.*tmp'))


def _remove(path: Path) -> int:
    """Remove a file that may be there; return its size."""
    with suppress(OSError):
        size = path.stat().st_size
        path.unlink()
        return size
    return 0
