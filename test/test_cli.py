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


UNHEARD = '''import multiprocessing, os, signal
from rgbx_seg_ros.cli import start_unheard

def child(pipe):
    pipe.send(pipe.recv())

if __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a shell's foreground
    context = multiprocessing.get_context('spawn')
    for _ in range(2):  # before the first one there is no tracker of resources
        pipe, theirs = context.Pipe()
        process = context.Process(target=child, args=(theirs,))
        start_unheard(process)
        theirs.close()
        os.kill(process.pid, signal.SIGINT)
        pipe.send('unharmed')
        print(pipe.recv(), flush=True)
        os.kill(process.pid, signal.SIGINT)
        process.join()
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        print('heard')'''


def test_a_process_that_is_for_this_one_alone_never_hears_an_interrupt(tmp_path):
    # In a process of its own: libraries that other tests load have handlers of their own.
    (tmp_path / 'main.py').write_text(UNHEARD)
    ended = subprocess.run([sys.executable, str(tmp_path / 'main.py')], capture_output=True,
                           text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ('unharmed\nunharmed\nheard\n', '')


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
