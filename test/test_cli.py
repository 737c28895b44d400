# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How commands end."""

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


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 / 0)


@pytest.mark.parametrize('arguments', [['--colour', 'red'], ['--rate', 'fast'], []])
def test_a_wrong_argument_is_one_sentence_that_names_it(arguments):
    parser = Arguments(prog='rgbx_x')
    parser.add_argument('--rate', type=float, required=True)
    with pytest.raises(RgbxSegError, match='(--colour|--rate).*`rgbx_x --help`'):
        parser.parse_args([*arguments])
