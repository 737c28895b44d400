# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The cache of engines: found by all parts, never half, never a wrong one, never built twice."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest

from rgbx_seg_ros import RgbxSegError, engine_cache, engine_lock

ROOT = Path(__file__).parent.parent
PARTS = {'ONNX SHA-256': 'ab' * 32, 'library': 'tensorrt', 'version': '10.3.0', 'GPU': 'Orin',
         'compute capability': '8.7', 'CUDA driver': '12.6', 'precision': 'fp32',
         'tensors': 'rgb uint8 1x8x8x3', 'options': 'strongly typed', 'system': 'Linux aarch64',
         'schema': '1'}
ABOUT = {'bundle': 'tiny', 'graph': 'model.onnx'}
PLAN = b'plan ' * 1000
# What another process does: build until it is let go, or end itself at the n-th file that it puts
# in place.
PROGRAM = """
import os, signal, sys
from rgbx_seg_ros import engine_cache
parts, about = {parts!r}, {about!r}
def build():
    print('building', flush=True)
    if {waits}:
        sys.stdin.read()
    return {plan!r}
replace, left = os.replace, [{replaces}]
def count(*names):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*names)
os.replace = count
entry, is_new = engine_cache.obtain(parts, about, build, lambda text: print(text, flush=True))
print('new' if is_new else 'old', entry.path, flush=True)
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'rgbx_seg' / 'engines'


class Builder:
    """Counts the builds it is asked for."""

    def __init__(self, plan=PLAN):
        self.plan, self.calls, self.told = plan, 0, []

    def __call__(self):
        self.calls += 1
        return self.plan

    def obtain(self, parts=PARTS, **more):
        return engine_cache.obtain(parts, ABOUT, self, self.told.append, **more)

    @property
    def text(self):
        return ' '.join(self.told)


def process(waits=False, replaces=0):
    """Start a builder; one that waits goes on when its standard input is closed."""
    program = PROGRAM.format(parts=PARTS, about=ABOUT, plan=PLAN, waits=waits, replaces=replaces)
    return subprocess.Popen([sys.executable, '-c', program], cwd=ROOT, text=True,
                            stdin=subprocess.PIPE if waits else subprocess.DEVNULL,
                            stdout=subprocess.PIPE)


def read_until(child, word):
    """Read what a process says up to a line with this word in it."""
    lines = []
    while word not in (line := child.stdout.readline()):
        assert line, f'it ended after {lines}'
        lines.append(line)
    return line


def files(place):
    return sorted(path.name for path in place.iterdir() if path.name != 'lock')


def test_an_engine_is_built_once_and_then_found(place):
    builder = Builder()
    entry, is_new = builder.obtain()
    assert is_new and entry.path.read_bytes() == PLAN
    assert entry.path.parent == place and entry.path.stem == engine_cache.key_of(PARTS)
    again, is_new = builder.obtain()
    assert not is_new and builder.calls == 1 and again == entry
    assert len(builder.told) == 1 and 'has none yet' in builder.text


def test_the_sidecar_says_in_words_what_the_engine_was_built_from(place):
    entry, _ = Builder().obtain()
    data = json.loads((place / f'{entry.path.name}.json').read_text())
    assert data['parts'] == PARTS and data['about'] == ABOUT
    assert data['size'] == len(PLAN) and data['sha256'] == sha256(PLAN).hexdigest()


@pytest.mark.parametrize('name', PARTS)
def test_each_part_makes_another_engine_and_its_change_is_told(name):
    builder = Builder()
    builder.obtain()
    changed = {**PARTS, name: 'other'}
    entry, is_new = builder.obtain(changed)
    assert is_new and builder.calls == 2 and engine_cache.key_of(changed) in str(entry.path)
    if name != 'library':  # an engine of another library is no reason to expect one of this
        expected = f'{name} {engine_cache.short(PARTS[name])}, expected other'
        assert expected in builder.told[-1]
    assert not builder.obtain()[1]


def test_the_order_of_parts_makes_no_difference():
    assert engine_cache.key_of(PARTS) == engine_cache.key_of(dict(reversed(PARTS.items())))


@pytest.mark.parametrize('damage, reason', [
    (lambda path: path.write_bytes(PLAN[:-7]), '4993 bytes, expected 5000'),
    (lambda path: path.write_bytes(b''), '0 bytes, expected 5000'),
    (lambda path: path.write_bytes(PLAN[:-1] + b'!'), 'its SHA-256 is another'),
    (lambda path: Path(f'{path}.json').unlink(), 'no '),
    (lambda path: Path(f'{path}.json').write_text('{'), 'is not what `rgbx_build_engine` writes'),
    (lambda path: Path(f'{path}.json').write_text('[' * 100_000), 'is not what'),
    (lambda path: Path(f'{path}.json').write_bytes(b' ' * (2 << 20)), 'is not what'),
    (lambda path: Path(f'{path}.json').write_text('{"parts": {"a": 1}}'), 'is not what'),
], ids=['truncated', 'empty', 'flipped', 'no sidecar', 'half sidecar', 'deep sidecar',
        'huge sidecar', 'other sidecar'])
def test_a_damaged_engine_is_built_again_and_the_reason_told(damage, reason):
    builder = Builder()
    entry, _ = builder.obtain()
    damage(entry.path)
    builder.told.clear()
    again, is_new = builder.obtain()
    assert is_new and builder.calls == 2 and again.path.read_bytes() == PLAN
    assert reason in builder.text
    assert not builder.obtain()[1]


def test_a_foreign_engine_under_the_right_name_is_built_again():
    builder = Builder()
    entry, _ = builder.obtain()
    foreign, _ = Builder(b'foreign').obtain({**PARTS, 'GPU': 'Xavier'})
    for suffix in ('', '.json'):
        os.replace(f'{foreign.path}{suffix}', f'{entry.path}{suffix}')
    again, is_new = builder.obtain()
    assert is_new and again.path.read_bytes() == PLAN
    assert 'a foreign one (GPU Xavier, expected Orin)' in builder.text


def test_force_builds_what_is_there():
    builder = Builder()
    builder.obtain()
    builder.plan = b'another'
    entry, is_new = builder.obtain(force=True)
    assert is_new and entry.path.read_bytes() == b'another' and 'asked for' in builder.text


def test_a_build_that_fails_leaves_nothing_and_no_lock(place):
    def fail():
        raise RgbxSegError('no kernel')

    with pytest.raises(RgbxSegError, match='no kernel'):
        engine_cache.obtain(PARTS, ABOUT, fail, lambda text: None)
    assert files(place) == []
    builder = Builder()
    assert builder.obtain()[1] and 'did not come to its end' not in builder.text


@pytest.mark.parametrize('replaces, left', [(0, 0), (1, 1), (2, 2)],
                         ids=['while it builds', 'before the engine', 'before the sidecar'])
def test_kill_9_leaves_no_engine_and_the_next_start_builds_again(place, replaces, left):
    child = process(waits=not replaces, replaces=replaces)
    read_until(child, 'building')
    if not replaces:
        child.kill()
    assert child.wait(20) == -signal.SIGKILL
    assert len(files(place)) == left  # a rest, but nothing that is taken for an engine
    builder = Builder()
    entry, is_new = builder.obtain()
    assert is_new and entry.path.read_bytes() == PLAN
    assert f'process {child.pid}' in builder.text and 'did not come to its end' in builder.text
    assert 'add swap' in builder.text
    assert files(place) == [entry.path.name, f'{entry.path.name}.json']
    child.communicate()


def test_of_two_processes_one_builds_and_the_other_says_for_whom_it_waits():
    first = process(waits=True)
    read_until(first, 'building')
    second = process()
    waiting = read_until(second, 'waiting')
    assert f'waiting since 0 s for process {first.pid} on ' in waiting
    assert 'the engine of model.onnx for tensorrt' in waiting
    assert first.communicate(timeout=30)[0].startswith('new ')
    assert second.communicate(timeout=30)[0].startswith('old ')


def test_the_lock_of_a_dead_process_holds_nobody_up():
    first = process(waits=True)
    read_until(first, 'building')
    second = process()
    read_until(second, 'waiting')
    first.kill()
    heard, _ = second.communicate(timeout=20)
    assert '\nnew ' in heard and 'did not come to its end' in heard
    first.communicate()


def test_a_long_wait_is_told_every_few_seconds(place, monkeypatch):
    monkeypatch.setattr(engine_lock, 'TELL_S', 0.1)
    monkeypatch.setattr(engine_lock, 'LOOK_S', 0.01)
    first = process(waits=True)
    read_until(first, 'building')
    builder = Builder()

    def tell(text):
        builder.told.append(text)
        if len(builder.told) == 3:
            first.stdin.close()

    assert not engine_cache.obtain(PARTS, ABOUT, builder, tell)[1]
    assert all(text.startswith('waiting since') for text in builder.told)
    assert first.wait(30) == 0
    first.stdout.close()


def test_a_folder_that_cannot_be_written_makes_a_temporary_engine(place, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    builder = Builder()
    entry, is_new = builder.obtain()
    assert is_new and entry.path.read_bytes() == PLAN and tmp_path not in entry.path.parents
    assert 'cannot be used (Not a directory)' in builder.text
    assert entry.path.parent.stat().st_mode & 0o077 == 0
    assert not place.exists()


def test_a_full_disk_makes_a_temporary_engine_and_leaves_no_half_one(place, monkeypatch):
    real = engine_cache.write_atomically

    def full(path, content):
        if path.parent == place:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, content)

    monkeypatch.setattr(engine_cache, 'write_atomically', full)
    builder = Builder()
    entry, is_new = builder.obtain()
    assert is_new and entry.path.read_bytes() == PLAN and entry.path.parent != place
    assert 'cannot hold the engine' in builder.text and 'No space left on device' in builder.text
    assert files(place) == [] and builder.calls == 1


def test_without_any_space_it_is_one_sentence(place):
    """A limit on the size of files is the nearest to a full disk that needs no rights."""
    def child():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    program = PROGRAM.format(parts=PARTS, about=ABOUT, plan=PLAN, waits=False,
                             replaces=0)
    run = subprocess.run([sys.executable, '-c', program], cwd=ROOT, preexec_fn=child, text=True,
                         capture_output=True, timeout=30, check=False)
    assert run.returncode == 1
    assert 'cannot hold the engine of 0 MB (File too large)' in run.stdout
    assert run.stderr.rstrip().split('\n')[-1].startswith(
        'rgbx_seg_ros.RgbxSegError: the engine of 0 MB can be written nowhere; expected')
    assert files(place) == []


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / 'file'
    engine_cache.write_atomically(path, b'old')

    def fail(*names):
        raise OSError(errno.EIO, 'broken')

    with monkeypatch.context() as patch, pytest.raises(OSError, match='broken'):
        patch.setattr(os, 'replace', fail)
        engine_cache.write_atomically(path, b'new')
    assert path.read_bytes() == b'old' and list(tmp_path.iterdir()) == [path]
    engine_cache.write_atomically(path, b'new')
    assert path.read_bytes() == b'new' and path.stat().st_mode & 0o777 == 0o644


def test_prune_removes_what_was_not_used_and_rests_but_nothing_in_use(place):
    old, used = Builder().obtain()[0], Builder().obtain({**PARTS, 'GPU': 'used'})[0]
    for name in ('half.engine', 'gone.engine.json', f'.{old.path.name}.abc.tmp',
                 'kernels.runtime'):
        (place / name).write_bytes(b'x')
    long_ago = time.time() - 40 * 86400
    for name in (old.path, used.path, place / 'kernels.runtime'):
        os.utime(name, (long_ago, long_ago))
    Builder().obtain({**PARTS, 'GPU': 'used'})
    freed = engine_cache.prune(30, lambda text: None)
    assert files(place) == [used.path.name, f'{used.path.name}.json']
    assert freed > len(PLAN)
    assert [entry.path for entry in engine_cache.entries()] == [used.path]


def test_the_cache_lies_in_the_home_folder_unless_it_is_told_an_absolute_one(monkeypatch):
    monkeypatch.setenv('HOME', '/home/robot')
    for value in ('', 'relative/cache'):
        monkeypatch.setenv('XDG_CACHE_HOME', value)
        assert engine_cache.folder() == Path('/home/robot/.cache/rgbx_seg/engines')
