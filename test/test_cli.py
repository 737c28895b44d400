# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How commands end."""

import subprocess
import sys

import pytest

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command


def fail():
    raise RgbxSegError('the bag is empty; record again.')


def interrupt():
    raise KeyboardInterrupt


def test_success_is_0_an_error_of_ours_one_line_and_1_an_interrupt_130(capsys):
    assert run_command(lambda: None) == 0
    assert run_command(fail) == 1
    assert capsys.readouterr().err.endswith(': error: the bag is empty; record again.\n')
    assert run_command(interrupt) == 130


HELD = '''import signal, subprocess, sys
from rgbx_seg_ros.cli import interrupts_held
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a shell's foreground
try:
    with interrupts_held():
        child = subprocess.Popen([sys.executable, '-c', 'input(); print("unharmed")'],
                                 stdin=subprocess.PIPE, text=True)
        child.send_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        print('held', flush=True)
except KeyboardInterrupt:
    print('heard', flush=True)
child.send_signal(signal.SIGINT)
child.communicate('\\n')'''


def test_an_interrupt_waits_and_never_reaches_what_was_started_meanwhile():
    # In a process of its own: libraries that other tests load have handlers of their own.
    ended = subprocess.run([sys.executable, '-c', HELD], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ('held\nheard\nunharmed\n', '')


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 / 0)


def test_a_path_that_cannot_be_used_is_one_sentence_that_names_it(tmp_path, capsys):
    (tmp_path / 'file').touch()

    def inside_a_file():
        (tmp_path / 'file' / 'out').mkdir()

    def onto_a_folder():
        (tmp_path / 'folder' / 'full').mkdir(parents=True)
        (tmp_path / 'file').replace(tmp_path / 'folder')

    for fault, name in ((inside_a_file, 'file/out'), (onto_a_folder, 'folder')):
        assert run_command(fault) == 1
        told = capsys.readouterr().err
        assert f'error: {tmp_path / name}: ' in told
        assert told.count('\n') == 1


def test_settings_may_follow_an_option_and_missing_ones_are_not_asked_for():
    parser = Arguments(prog='rgbx_x')
    parser.add_argument('config')
    parser.add_argument('overrides', nargs='*', default=[])
    parser.add_argument('--overwrite', action='store_true')
    for given in (['c', '--overwrite', 'a=1', 'b=2'], ['c', 'a=1', '--overwrite', 'b=2']):
        options = parser.parse_args(given)
        assert (options.config, options.overrides, options.overwrite) == ('c', ['a=1', 'b=2'], True)
    assert parser.parse_args(['c']).overrides == []


@pytest.mark.parametrize('arguments', [['--colour', 'red'], ['--rate', 'fast'], []])
def test_a_wrong_argument_is_one_sentence_that_names_it(arguments):
    parser = Arguments(prog='rgbx_x')
    parser.add_argument('--rate', type=float, required=True)
    with pytest.raises(RgbxSegError, match='(--colour|--rate).*`rgbx_x --help`'):
        parser.parse_args([*arguments])
