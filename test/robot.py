# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The rest of a robot for tests: the node in its own process, cameras and listeners here."""

from __future__ import annotations

import array
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Header

ROOT = Path(__file__).parent.parent
SETTLE_S = 0.5
PATIENCE_S = 20.0  # on a busy machine; nothing waits that long where it works
SECOND = 1_000_000_000
# Stamps of the pairs that tests send, in the past and ascending: the node is not told the truth
# about when they were taken, so that no test depends on how fast this machine is.
STAMPS_NS = itertools.count(time.time_ns() - 3600 * SECOND, 2 * SECOND)

SIZE = (90, 120)  # of the images: not the network's 48 x 64, not its aspect ratio
# The images of tests are small, and LARGE_DATA, which large ones need, sometimes hangs when a
# participant is destroyed, see exit_guard.py.
os.environ.setdefault('FASTDDS_BUILTIN_TRANSPORTS', 'DEFAULT')


def free_domain() -> int:
    """Return a ROS domain in which nobody on this machine is, other tests included."""
    # Low numbers only: higher ones need ports that a machine may use for outgoing connections.
    # Test processes side by side have their own: a domain looks free until its node has joined.
    side = int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw')) % 4
    for domain in random.SystemRandom().sample(range(1 + 25 * side, 26 + 25 * side), 25):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(('', 7400 + 250 * domain))  # where DDS participants find each other
            except OSError:
                continue
            return domain
    raise RuntimeError('no free ROS domain among 25 of 1 to 100.')


class NodeProcess:
    """`python -m rgbx_seg_ros.node` with parameters, and its log; killed when its scope ends."""

    program: tuple[str, ...] = ('-m', 'rgbx_seg_ros.node')

    def __init__(self, log: Path, domain: int, **parameters: Any) -> None:
        """Start it; `sync__max_skew=0.1` stands for the parameter sync.max_skew."""
        arguments = []
        for name, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else value
            arguments += ['-p', f'{name.replace("__", ".")}:={text}']
        self._log = log
        with log.open('w') as file:
            self.process = subprocess.Popen(
                [sys.executable, *self.program, '--ros-args', *arguments], cwd=ROOT,
                stdout=file, stderr=subprocess.STDOUT,
                env={**os.environ, 'ROS_DOMAIN_ID': str(domain), 'OMP_NUM_THREADS': '1'})

    @property
    def log(self) -> str:
        """What the node has written so far."""
        return self._log.read_text()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()

    def __enter__(self) -> NodeProcess:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no process behind when a test fails."""
        self.process.kill()
        self.process.wait()


class SlowNodeProcess(NodeProcess):
    """The same with an engine that first sleeps for as many seconds as bundle/delay says."""

    program = (str(ROOT / 'test' / 'slow_node.py'),)


class Robot:
    """An rclpy node of the test's own: it publishes images and keeps what it hears."""

    def __init__(self, domain: int) -> None:
        """Join the network of a ROS domain."""
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node('robot', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.heard: dict[str, list[Any]] = {}
        self._publishers: dict[str, Any] = {}

    def close(self) -> None:
        """Leave the network."""
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def until(self, condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> bool:
        """Spin until `condition` holds; return whether it did in time."""
        deadline = time.monotonic() + patience_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.executor.spin_once(timeout_sec=0.02)
        return True

    def spin(self, seconds: float) -> None:
        """Spin for a while."""
        self.until(lambda: False, seconds)

    def listen(self, kind: type, topic: str, qos: QoSProfile | int = 10) -> list[Any]:
        """Subscribe, wait for the publisher, and return the list that the messages go to."""
        self.heard[topic] = []
        self.node.create_subscription(kind, topic, self.heard[topic].append, qos)
        assert self.until(lambda: self.node.count_publishers(topic)), f'nobody publishes {topic}'
        return self.heard[topic]

    def advertise(self, kind: type, *topics: str) -> None:
        """Get ready to publish on topics that the node must subscribe to."""
        new = {topic: self.node.create_publisher(kind, topic, 10) for topic in topics}
        for topic, publisher in new.items():
            assert self.until(publisher.get_subscription_count), f'nobody subscribes to {topic}'
        # The subscriber learns of a publisher later than the publisher of it, and a best-effort one
        # misses what comes before.
        self.spin(SETTLE_S)
        self._publishers |= new

    def publish(self, topic: str, message: Any) -> None:
        """Publish on a topic that the node must subscribe to."""
        if topic not in self._publishers:
            self.advertise(type(message), topic)
        self._publishers[topic].publish(message)

    def call(self, kind: Any, service: str, request: Any) -> Any:
        """Call a service and return its response."""
        client = self.node.create_client(kind, service)
        assert self.until(client.service_is_ready), f'no service {service}'
        future = client.call_async(request)
        assert self.until(future.done), f'no response from {service}'
        self.node.destroy_client(client)
        return future.result()

    def state(self) -> str:
        """Return the lifecycle state of the node."""
        response = self.call(GetState, '/segment/get_state', GetState.Request())
        return str(response.current_state.label)

    def change(self, transition: str) -> bool:
        """Ask for a lifecycle transition by name; return whether it succeeded."""
        number = getattr(Transition, f'TRANSITION_{transition.upper()}')
        request = ChangeState.Request(transition=Transition(id=number))
        return bool(self.call(ChangeState, '/segment/change_state', request).success)

    def set_parameter(self, name: str, value: Any) -> str:
        """Set a parameter; return why it was refused, or an empty text."""
        parameter = Parameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[parameter])
        result = self.call(SetParameters, '/segment/set_parameters', request).results[0]
        return '' if result.successful else str(result.reason)

    def get_parameter(self, name: str) -> Any:
        """Return the value of a parameter as a message."""
        request = GetParameters.Request(names=[name])
        return self.call(GetParameters, '/segment/get_parameters', request).values[0]


@contextmanager
def robot(domain: int) -> Iterator[Robot]:
    """Open a Robot and close it."""
    opened = Robot(domain)
    try:
        yield opened
    finally:
        opened.close()


def image(pixels: np.ndarray, encoding: str, stamp_ns: int, frame_id: str = 'camera') -> Image:
    """Return an Image message, written without the code under test."""
    stamp = Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    data = np.ascontiguousarray(pixels)
    return Image(header=Header(stamp=stamp, frame_id=frame_id), height=data.shape[0],
                 width=data.shape[1], encoding=encoding, step=data[0].nbytes,
                 data=array.array('B', data.tobytes()))


def scene(seed: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Return an RGB and a 16-bit thermal image with values over the whole range."""
    numbers = np.random.default_rng(seed)
    return (numbers.integers(0, 256, (*size, 3), np.uint8),
            numbers.integers(26315, 32315, size, np.uint16))


def pixels(message: Image) -> np.ndarray:
    """Return the pixels of a mono8 or rgb8 image, read without the code under test."""
    shape = (message.height, message.width, 3)[:3 if message.encoding == 'rgb8' else 2]
    return np.frombuffer(message.data, np.uint8).reshape(shape)


def normalized(thermal: np.ndarray) -> np.ndarray:
    """Return 263.15 K..323.15 K as 0..255; the raw values are steps of 0.01 K."""
    return np.floor((thermal - 26315.0) * 255 / 6000 + 0.5).astype(np.uint8)


def drops(stats: Any) -> dict[str, int]:
    """Return the drops of a SegmentationStats by cause."""
    return dict(zip(stats.drop_causes, stats.drop_counts, strict=True))
