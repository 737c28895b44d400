# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Engines that fail, at every moment of their life, and engines that do not come back."""

import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rgbx_seg.msg', reason='the ROS package is not built; run `make ros`')

from bundles import expected, write_tiny_bundle
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from robot import (
    PATIENCE_S,
    ROOT,
    STAMPS_NS,
    NodeProcess,
    free_domain,
    image,
    normalized,
    pixels,
    robot,
    scene,
)
from sensor_msgs.msg import Image

SIZE = (48, 64)  # the network's: no resizing lies between the images and the oracle
END_S = 2.0  # from a signal to the end of the process; 1 s on a machine with nothing else to do
ERROR = b'\x02'


class FailingNodeProcess(NodeProcess):
    """The node with an engine that fails as bundle/fault says."""

    program = (str(ROOT / 'test' / 'failing_node.py'),)


@pytest.fixture(scope='module')
def running(tmp_path_factory):
    """One active node with two pairs of cameras, whose masks are heard by a robot."""
    folder, number = tmp_path_factory.mktemp('node'), free_domain()
    bundle = write_tiny_bundle(folder / 'bundle')
    with (FailingNodeProcess(folder / 'log', number, bundle=bundle, pairs=['front', 'rear'],
                             warmup=0) as node, robot(number) as peer):
        masks = {pair: peer.listen(Image, f'/segment/{pair}/mask') for pair in ('front', 'rear')}
        diagnostics = peer.listen(DiagnosticArray, '/diagnostics')
        peer.advertise(Image, *(f'/{pair}/{stream}/image_raw' for pair in masks
                                for stream in ('rgb', 'thermal')))
        yield SimpleNamespace(node=node, peer=peer, masks=masks, fault=bundle / 'fault',
                              diagnostics=diagnostics)
        assert node.end() == 0
        assert 'Traceback' not in node.log


@pytest.fixture(autouse=True)
def sound_afterwards(request):
    yield
    if 'running' in request.fixturenames:
        request.getfixturevalue('running').fault.unlink(missing_ok=True)


def send(peer, prefix='', seed=1, white=False):
    """Publish a pair of images and return the mask that is due."""
    rgb, thermal = scene(seed, SIZE)
    rgb[0, 0] = 255 if white else 0
    stamp_ns = next(STAMPS_NS)
    peer.publish(f'{prefix}/rgb/image_raw', image(rgb, 'rgb8', stamp_ns))
    peer.publish(f'{prefix}/thermal/image_raw', image(thermal, 'mono16', stamp_ns))
    return expected(rgb, normalized(thermal))


def assert_segments(running, pair):
    """Send a good pair and expect its mask."""
    heard = running.masks[pair]
    heard.clear()
    due = send(running.peer, f'/{pair}')
    assert running.peer.until(lambda: heard), running.node.log
    np.testing.assert_array_equal(pixels(heard.pop()), due)


def status(running, name):
    """Return the newest status of a concern, from a report that is still to come."""
    heard = running.diagnostics
    heard.clear()
    assert running.peer.until(lambda: len(heard) > 1)
    return next(one for one in heard[-1].status if one.name == f'segment: {name}')


def restart(running):
    """Take the node down and up again."""
    for transition in ('deactivate', 'cleanup', 'configure', 'activate'):
        assert running.peer.change(transition), running.node.log
    topics = [f'/{pair}/{stream}/image_raw' for pair in running.masks
              for stream in ('rgb', 'thermal')]
    assert running.peer.until(lambda: all(map(running.peer.node.count_subscribers, topics)))
    running.peer.spin(0.5)


def test_a_pair_that_fails_is_an_error_and_the_other_pairs_go_on(running):
    running.fault.write_text('call raise_on_white')
    send(running.peer, '/front', white=True)
    assert running.peer.until(lambda: 'a pair failed' in running.node.log)
    assert_segments(running, 'rear')
    assert_segments(running, 'front')
    front, rear = status(running, 'front inference'), status(running, 'rear inference')
    assert front.level == ERROR and 'failed' not in rear.message
    assert '1 pairs failed, the last one: MemoryError: the accelerator is out' in front.message
    send(running.peer, '/front', white=True)
    running.peer.spin(0.3)
    assert running.node.log.count('out of memory') == 1 and not running.masks['front']


def test_an_engine_that_always_fails_recovers_when_it_is_configured_again(running):
    running.fault.write_text('call raise')
    for seed in range(3):
        send(running.peer, '/rear', seed)
        running.peer.spin(0.2)
    failed = status(running, 'rear inference')
    assert failed.level == ERROR and '3 pairs failed' in failed.message
    assert not running.masks['rear']
    running.fault.unlink()
    restart(running)
    assert_segments(running, 'rear')
    assert 'failed' not in status(running, 'rear inference').message


def test_an_engine_that_cannot_be_closed_is_left_behind(running):
    running.fault.write_text('close raise')
    assert running.peer.change('deactivate') and running.peer.change('cleanup')
    assert running.peer.state() == 'unconfigured'
    assert 'the engine failed when it was closed (MemoryError' in running.node.log
    assert running.peer.until(lambda: not running.peer.node.count_publishers('/segment/rear/mask'))
    assert running.peer.change('configure') and running.peer.change('activate')
    restart(running)  # once more without it
    assert_segments(running, 'front')


def test_an_engine_that_cannot_be_opened_is_told_and_may_be_opened_later(running):
    assert running.peer.change('deactivate') and running.peer.change('cleanup')
    for fault in ('open raise', 'call raise'):  # the second one when it warms up
        running.fault.write_text(fault)
        assert running.peer.set_parameter('warmup', 1) == ''
        assert not running.peer.change('configure')
        assert running.peer.state() == 'unconfigured'
        told = status(running, 'state')
        assert told.level == ERROR and 'MemoryError: the accelerator' in told.message
    running.fault.unlink()
    assert running.peer.change('configure') and running.peer.change('activate')
    restart(running)
    assert_segments(running, 'rear')


@pytest.mark.parametrize('signals', [[signal.SIGTERM], [signal.SIGINT] * 2])
@pytest.mark.parametrize('fault', ['call sleep', 'call busy', 'call hold', 'open sleep',
                                   'open hold', 'call none'])
def test_a_signal_ends_the_node_whatever_the_engine_does(tmp_path, fault, signals):
    number, bundle = free_domain(), write_tiny_bundle(tmp_path / 'bundle')
    (bundle / 'fault').write_text(fault)
    with (FailingNodeProcess(tmp_path / 'log', number, bundle=bundle, warmup=0) as node,
          robot(number) as peer):
        if fault.startswith('call'):
            heard = peer.listen(Image, '/segment/mask')
            send(peer)
        assert peer.until(lambda: (bundle / 'stuck').exists() or (
            fault == 'call none' and heard)), node.log
        assert_ends(node, signals)


def test_a_signal_ends_a_transition_that_waits_for_the_engine(tmp_path):
    number, bundle = free_domain(), write_tiny_bundle(tmp_path / 'bundle')
    (bundle / 'fault').write_text('close sleep')
    with (FailingNodeProcess(tmp_path / 'log', number, bundle=bundle) as node,
          robot(number) as peer):
        assert peer.until(lambda: peer.state() == 'active')
        assert peer.change('deactivate')
        client = peer.node.create_client(ChangeState, '/segment/change_state')
        assert peer.until(client.service_is_ready)
        client.call_async(ChangeState.Request(
            transition=Transition(id=Transition.TRANSITION_CLEANUP)))
        assert peer.until((bundle / 'stuck').exists)
        assert_ends(node, [signal.SIGTERM])


def assert_ends(node, signals):
    """Send signals, and expect that the node ends at once and without a word."""
    began = time.monotonic()
    for number in signals:
        node.process.send_signal(number)
        time.sleep(0.05)
    assert node.process.wait(PATIENCE_S) == 0
    assert time.monotonic() - began < END_S
    assert 'Traceback' not in node.log and 'rror' not in node.log
