# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bags import START_NS, frame, write_bag
from bundles import CLASSES, manifest, tiny_bank, tiny_onnx, write_tiny_bundle
from results import bag_result, confusion

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.bag import BagWriter
from rgbx_seg_ros.eval_bag import closing, main
from rgbx_seg_ros.eval_progress import Progress
from rgbx_seg_ros.eval_result import load_result
from rgbx_seg_ros.eval_settings import EvalSettings, node_settings
from rgbx_seg_ros.eval_summary import summarize
from rgbx_seg_ros.eval_tasks import (
    check_target,
    find_bags,
    key_of,
    locked,
    names_of_bags,
    new_folder,
    replace_files,
)
from rgbx_seg_ros.manifest import ClassInfo, save_bundle
from rgbx_seg_ros.vocabulary import save_bank

QUICK = ('--no-video', '--pictures', '0', '--backend', 'onnxruntime')
FILES = {'index.html', 'report.json', 'frames.csv', 'bags', '.lock'}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """Two bags and a bundle."""
    folder = tmp_path_factory.mktemp('made')
    write_bag(folder / 'one', 5, labels=True)
    write_bag(folder / 'two', 7, labels=True)
    write_tiny_bundle(folder / 'bundle')
    return folder


@pytest.fixture
def run(made, tmp_path, capsys):
    """Return what runs the command on bags, and returns its exit code, stdout and stderr."""
    def run(*args, bags=('one', 'two'), bundle='bundle'):
        code = main([*(str(made / bag) for bag in bags), '--bundle', str(made / bundle), '--out',
                     str(tmp_path / 'out'), *QUICK, *map(str, args)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def without_pairs(path):
    """Write a bag whose two cameras have clocks a minute apart."""
    with BagWriter(path) as writer:
        for index in range(5):
            stamp_ns = START_NS + index * 100_000_000
            writer.write_image('/rgb/image_raw', frame(index, channels=3), 'rgb8', stamp_ns,
                               stamp_ns, 'rgb')
            writer.write_image('/thermal/image_raw', frame(index), 'mono8',
                               stamp_ns + 60_000_000_000, stamp_ns, 'thermal')
    return path


def test_a_report_of_two_bags_is_written_and_told(run, tmp_path):
    code, out, err = run()
    assert code == 0 and err == ''
    report = json.loads((tmp_path / 'out/report.json').read_text())
    assert [bag['name'] for bag in report['bags']] == ['one', 'two'] and report['failed'] == []
    assert {path.name for path in (tmp_path / 'out').iterdir()} == FILES
    score = f'{100 * report["scores"][0]["miou"]:.2f} %'
    assert f'bundle: mIoU {score}' in out and '12 pairs of 2 bag(s)' in out
    assert f'report: {tmp_path / "out/index.html"}' in out and 'real-time factor' in out
    with (tmp_path / 'out/frames.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert [(row['bag'], row['number']) for row in rows] == [
        *(('one', str(n)) for n in range(5)), *(('two', str(n)) for n in range(7))]


def test_json_is_alone_on_stdout_and_is_the_report(run, tmp_path):
    code, out, _ = run('--json')
    assert code == 0 and json.loads(out) == json.loads((tmp_path / 'out/report.json').read_text())


def test_what_is_done_is_kept_until_something_that_decides_it_changes(run, made, tmp_path):
    def times():
        return [(tmp_path / f'out/bags/{name}/result.json').stat().st_mtime_ns
                for name in ('one', 'two')]

    run()
    first = times()
    code, _, err = run()
    assert code == 0 and 'one: done already' in err and 'two: done already' in err
    assert times() == first
    files = list((made / 'two').iterdir())
    for file in files:
        os.utime(file, ns=(1, time.time_ns()))
    _, _, err = run()
    assert 'one: done already' in err and 'two:' not in err
    assert times()[0] == first[0] and times()[1] > first[1]
    for changed in (('--ablate-every', 2), ('sync.max_skew=0.02',), ('--force',)):
        before = times()
        code, _, err = run(*changed)
        assert code == 0 and err == '' and all(a > b for a, b in zip(times(), before, strict=True))


def test_results_of_other_bags_stay_and_are_told(run, tmp_path):
    run()
    code, out, err = run(bags=('two',))
    assert code == 0 and 'results of 1 bag(s)' in err and 'such as one' in err
    assert '7 pairs of 1 bag(s)' in out and (tmp_path / 'out/bags/one/result.json').exists()


def cut(folder):
    (folder / 'result.json').write_text('{"key": ')


def of_another_version(folder):
    with np.load(folder / 'counts.npz') as arrays:
        kept = {name: array[..., :-1] if name == '0_with_aux' else array
                for name, array in arrays.items()}
    np.savez_compressed(folder / 'counts.npz', **kept)


@pytest.mark.parametrize('damage', [cut, of_another_version, lambda folder: (
    folder / 'frames.csv').unlink()])
def test_a_damaged_result_is_evaluated_anew(run, tmp_path, damage):
    run()
    damage(tmp_path / 'out/bags/one')
    code, _, err = run()
    assert code == 0 and 'one:' not in err and 'two: done already' in err
    assert load_result(tmp_path / 'out/bags/one').name == 'one'


def test_a_bag_that_fails_is_named_and_the_others_are_finished(run, made, tmp_path):
    without_pairs(made / 'apart')
    code, out, err = run(bags=('apart', 'one', 'two'))
    assert code == 1 and 'error: apart, of 3 bags, failed' in err and 'mIoU' in out
    report = json.loads((tmp_path / 'out/report.json').read_text())
    assert [bag['name'] for bag in report['bags']] == ['one', 'two']
    assert report['failed'][0]['name'] == 'apart' and 'pairs with' in report['failed'][0]['reason']
    assert {path.name for path in (tmp_path / 'out/bags').iterdir()} == {'one', 'two'}


def test_where_every_bag_fails_there_is_no_report(run, made, tmp_path):
    code, out, err = run(bags=(without_pairs(made / 'alone').name,))
    assert code == 1 and out == '' and 'no frame of /rgb/image_raw pairs with' in err
    assert not (tmp_path / 'out/report.json').exists()


def test_parameters_of_the_node_decide(run, made, tmp_path):
    assert run('sync.max_skew=0.005')[0] == 1  # aux comes 10 ms later
    (tmp_path / 'robot.yaml').write_text('/**:\n  ros__parameters:\n    sync: {max_skew: 0.005}\n')
    assert run('--params', tmp_path / 'robot.yaml')[0] == 1
    assert run('--params', tmp_path / 'robot.yaml', 'sync.max_skew=0.05')[0] == 0
    code, _, err = run('sync.max_scew=0.05')
    assert code == 1 and 'did you mean sync.max_skew?' in err


@pytest.mark.parametrize('more, words', [
    (('--limit', '-1'), '--limit is -1, expected 0'), (('--jobs', '1000'), '--jobs is 1000'),
    (('--labels', '/nowhere'), 'no such folder'), (('--palette', '/nowhere'), 'no such file'),
    (('--pair', 'front'), '--pair is front'), (('--rgb-topic', '/x'), 'no image topic /x'),
    (('--label-topic', '/y'), 'no image topic /y'), (('--backend', 'abc'), 'invalid choice'),
    (('/nowhere/bag',), 'no such bag'), (('--bundle', '/nowhere'), 'no such folder')])
def test_everything_is_checked_before_anything_runs(run, tmp_path, more, words):
    code, _, err = run(*more)
    assert code == 1 and words in err and err.count('\n') == 1
    assert not (tmp_path / 'out').exists()


def test_bundles_of_other_classes_are_refused_before_anything_runs(run, made, tmp_path):
    other = (*CLASSES[:2], ClassInfo(2, 'cyclist', (1, 2, 3)))
    save_bundle(tmp_path / 'other', tiny_onnx(), replace(manifest(), classes=other))
    code, _, err = run('--bundle', tmp_path / 'other')
    assert code == 1 and 'different classes' in err and not (tmp_path / 'out').exists()


def test_a_folder_of_something_else_is_left_alone(run, tmp_path):
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'report.json').write_text('{"format": 1, "bag": "of the demo"}')
    code, _, err = run('--force')
    assert code == 1 and 'report.json, which no evaluation wrote' in err
    assert [path.name for path in out.iterdir()] == ['report.json']
    (out / 'report.json').unlink()
    (out / 'thesis.tex').write_text('x')
    with pytest.raises(RgbxSegError, match=r'thesis\.tex'):
        check_target(out)
    with pytest.raises(RgbxSegError, match='is a file'):
        check_target(out / 'thesis.tex')


def test_one_evaluation_at_a_time_holds_a_folder(run, tmp_path):
    (tmp_path / 'out').mkdir()
    with locked(tmp_path / 'out'):
        code, _, err = run()
    assert code == 1 and f'is being written by process {os.getpid()} on' in err
    assert run()[0] == 0


def start(made, out, *more):
    return subprocess.Popen(
        [sys.executable, '-m', 'rgbx_seg_ros.eval_bag', str(made / 'one'), str(made / 'long'),
         '--bundle', str(made / 'bundle'), '--out', str(out), *QUICK, *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # A shell lets its background jobs, of which these tests may be one, ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def wait_for(condition, process):
    for _ in range(3000):
        if condition() or process.poll() is not None:
            return
        time.sleep(0.01)
    raise AssertionError('it did not come')


def group_ends(group):
    """Tell whether all processes of a group are gone soon."""
    for _ in range(500):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


@pytest.fixture(scope='module')
def long(made):
    write_bag(made / 'long', 250, labels=True)
    return made


def test_killed_at_any_moment_it_leaves_whole_results_and_goes_on_from_there(long, tmp_path):
    out = tmp_path / 'out'
    process = start(long, out)
    wait_for(lambda: (out / 'bags/one').exists() and list((out / 'bags').glob('.long.*')), process)
    process.kill()
    process.communicate()
    assert load_result(out / 'bags/one').name == 'one'
    assert not (out / 'bags/long').exists() and list((out / 'bags').glob('.long.*'))
    process = start(long, out)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and 'one: done already' in err
    assert {path.name for path in (out / 'bags').iterdir()} == {'one', 'long'}
    assert {path.name for path in out.iterdir()} == FILES


@pytest.mark.parametrize('more', [(), ('--jobs', '2')])
def test_ctrl_c_ends_all_and_leaves_no_half(long, tmp_path, more):
    out = tmp_path / 'out'
    process = start(long, out, *more)
    wait_for(lambda: (out / 'bags').exists() and list((out / 'bags').glob('.long.*')), process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and 'Traceback' not in err
    assert group_ends(process.pid)
    assert not list((out / 'bags').glob('.*'))


def test_jobs_end_with_the_command_however_that_ends(long, tmp_path):
    out = tmp_path / 'out'
    process = start(long, out, '--jobs', '2')
    wait_for(lambda: (out / 'bags').exists() and list((out / 'bags').glob('.long.*')), process)
    process.kill()
    process.communicate(timeout=30)  # the jobs hold its stderr: this ends when they have ended
    assert group_ends(process.pid)


def test_bags_are_named_by_their_folders_and_those_above_where_two_are_alike():
    bags = [Path('/d/monday/bag'), Path('/d/tuesday/bag'), Path('/d/x.mcap'), Path('/d/X'),
            Path('/e/odd name=1.db3'), Path('/e/.hidden')]
    assert names_of_bags(bags) == ['monday-bag', 'tuesday-bag', 'd-x-2', 'd-X-3', 'odd_name_1',
                                   'hidden']


def test_a_folder_stands_for_all_the_bags_in_it(made, tmp_path):
    for name in ('b/run', 'a/run', 'c'):
        shutil.copytree(made / 'one', tmp_path / name)
    found = find_bags([tmp_path])
    assert found == [tmp_path / 'a/run', tmp_path / 'b/run', tmp_path / 'c']
    assert names_of_bags(found) == ['a-run', 'b-run', 'c']
    with pytest.raises(RgbxSegError, match='given twice'):
        find_bags([tmp_path, tmp_path / 'c'])
    (tmp_path / 'empty').mkdir()
    with pytest.raises(RgbxSegError, match='is no bag and holds none'):
        find_bags([tmp_path / 'empty'])


def test_a_bag_whose_name_looks_like_a_parameter_is_a_bag(made, tmp_path, capsys):
    shutil.copytree(made / 'one', tmp_path / 'run=1')
    assert main([str(tmp_path / 'run=1'), '--bundle', str(made / 'bundle'), '--out',
                 str(tmp_path / 'out'), *QUICK]) == 0
    assert (tmp_path / 'out/bags/run_1/result.json').exists()


def test_the_key_holds_what_decides_the_numbers_and_no_place(made, tmp_path):
    settings = EvalSettings((made / 'bundle',), **node_settings(None, {}))
    engines = [{'backend': 'dummy', 'backend_version': '1'}]
    key = key_of(made / 'one', settings, engines)
    shutil.copytree(made / 'bundle', tmp_path / 'moved')
    shutil.copytree(made / 'one', tmp_path / 'one')
    assert key_of(tmp_path / 'one', replace(settings, bundles=(tmp_path / 'moved',)),
                  engines) == key
    (tmp_path / 'homography.yaml').write_text('a')
    registration = replace(settings.pair.pipeline.registration, file=tmp_path / 'homography.yaml')
    registered = replace(settings, pair=replace(settings.pair, pipeline=replace(
        settings.pair.pipeline, registration=registration)))
    other = [key_of(made / 'two', settings, engines),
             key_of(made / 'one', settings, [{'backend': 'dummy', 'backend_version': '2'}]),
             key_of(made / 'one', replace(settings, threshold=0.5), engines),
             key_of(made / 'one', registered, engines)]
    (tmp_path / 'homography.yaml').write_text('b')
    other.append(key_of(made / 'one', registered, engines))
    assert len({key, *other}) == 6


def test_a_folder_or_file_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / 'result'
    for text in ('old', 'new'):
        with new_folder(target) as folder:
            (folder / 'file').write_text(text)
    with pytest.raises(ZeroDivisionError), new_folder(target) as folder:
        (folder / 'file').write_text('half')
        raise ZeroDivisionError
    assert (target / 'file').read_text() == 'new' and list(tmp_path.iterdir()) == [target]

    def fail(path):
        path.write_text('half')
        raise ZeroDivisionError

    (tmp_path / 'a').write_text('old')
    with pytest.raises(ZeroDivisionError):
        replace_files(tmp_path, {'a': lambda path: path.write_text('new'), 'b': fail})
    assert (tmp_path / 'a').read_text() == 'old'
    assert {path.name for path in tmp_path.iterdir()} == {'a', 'result'}


def test_closing_lines_compare_two_bundles_and_do_without_labels(tmp_path):
    rng = np.random.default_rng(0)
    settings = EvalSettings((Path('a'), Path('b')), **node_settings(None, {}))
    bag = bag_result([confusion(rng, 300, 0.8), confusion(rng, 300, 0.9)])
    lines = closing(summarize([bag], settings), tmp_path)
    assert 'b1 against b0: mIoU +' in lines[2] and 'better with 100 %' in lines[2]
    bag = bag_result([np.zeros((30, 3, 3), np.int64)] * 2)
    bag.sync['notes'] = [f'something odd, {n}.' for n in range(7)]
    lines = closing(summarize([bag], settings), tmp_path)
    told = [line for line in lines if line.startswith('note: ')]
    assert told[0].endswith(': something odd, 0.') and len(told) == 6
    assert told[-1] == 'note: 2 more stand in the report.'
    lines = closing(summarize([bag], settings), tmp_path)
    assert lines[0].startswith('b0: no labels; confidence 0.90') and 'agreement 1.00' in lines[1]


def test_progress_tells_lines_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr('rgbx_seg_ros.eval_progress.LINE_S', 0.0)
    with Progress(100) as progress:
        progress.skip(50)
        progress.done('a', 10)
        progress.done('b', 5)
        progress.done('a', 20)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(',')[0] for line in lines] == ['10 of 50 pairs', '15 of 50 pairs',
                                                      '25 of 50 pairs']
    assert all(line.endswith('s left') for line in lines)


def test_other_classes_are_evaluated_against_labels_by_name(run, made, tmp_path, capsys):
    bundle = write_tiny_bundle(made / 'open', vocabulary=4)
    assert run('--force', bags=('one',), bundle='open')[0] == 0
    plain = load_result(tmp_path / 'out/bags/one')
    code, out, _ = run('--classes', 'person, car,dog', bags=('one',), bundle='open')
    result = load_result(tmp_path / 'out/bags/one')
    assert code == 0 and [info.name for info in result.classes] == ['person', 'car', 'dog']
    # Of the tiny model's classes, unlabeled has become one that no name of these stands for; dog is
    # twice a person, so masks say dog where they said person.
    old, new = plain.totals[0].confusion, result.totals[0].confusion
    assert new[1].tolist() == [old[1, 0], old[1, 1], old[1, 2]]
    assert new[1].any() or new[0].any()
    assert new[0].tolist() == [old[2, 0], old[2, 1], old[2, 2]] and not new[2].any()
    assert 'the labels have no dog, which the masks are told to find' in out
    assert 'the labels have unlabeled, which the masks are not told to find' in out
    # The same once more is kept; another bank under the same name is not.
    (tmp_path / 'f.yaml').write_text('classes: [{name: human, class: person}]\nbank: own.npz\n')
    for scale, kept in ((1, False), (1, True), (2, False)):
        bank = tiny_bank()
        save_bank(tmp_path / 'own.npz', replace(bank, embeddings=scale * bank.embeddings))
        code, _, err = run('--classes', tmp_path / 'f.yaml', bags=('one',), bundle='open')
        assert code == 0 and ('one: done already' in err) == kept
    assert bundle.is_dir()


@pytest.mark.parametrize('bundle, names, told', [
    ('open', 'car,cat', "class 'cat' is not among the 6 names of the bank"),
    ('open', 'car,,dog', 'parameter classes is'), ('open', '/nowhere.yaml', 'no such file'),
    ('open', 'car,car', 'asked for twice'), ('bundle', 'car', 'the 3 classes of tiny are fixed')])
def test_classes_that_cannot_be_found_are_refused_before_anything_runs(
        run, made, tmp_path, bundle, names, told):
    write_tiny_bundle(made / 'open', vocabulary=4)
    code, _, err = run('--classes', names, bundle=bundle)
    assert code == 1 and told in err and err.count('\n') == 1 and not (tmp_path / 'out').exists()
