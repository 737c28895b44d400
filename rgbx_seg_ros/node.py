# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 node: one engine and the camera pairs that share it, as a lifecycle."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import nullcontext, suppress
from functools import partial
from threading import Lock, RLock
from typing import Any, NamedTuple

import cv2
import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNodeMixin, TransitionCallbackReturn
from rclpy.node import Node
from std_srvs.srv import SetBool

from rgbx_seg_ros import RgbxSegError, messages
from rgbx_seg_ros.allocator import keep_freed_memory
from rgbx_seg_ros.camera_pair import CameraPair, Work, now_ns
from rgbx_seg_ros.class_choice import Choice, find_classes
from rgbx_seg_ros.cli import run_command
from rgbx_seg_ros.diagnostics import Opening, Report, Reporter
from rgbx_seg_ros.exit_guard import end_on_signals, exit_after
from rgbx_seg_ros.health import Health
from rgbx_seg_ros.intake import Intake
from rgbx_seg_ros.manifest import load_bundle
from rgbx_seg_ros.parameters import Declared, Settings
from rgbx_seg_ros.segmenter import Segmenter
from rgbx_seg_ros.static_transforms import StaticTransforms
from rgbx_seg_ros.worker import Worker, open_segmenter

END_S = 0.8  # from a signal to the end, even while an engine holds the GIL
STATE_S = 2.0  # that a change of classes waits for a transition; one may take minutes
CLASS_PARAMETERS = {'classes', 'classes_file'}
NAMES_TOLD = 10  # of classes in a sentence of the log
PATIENCE_S = 0.4  # for the pair in work when the process is to end, and for the middleware


class Loaded(NamedTuple):
    """What a configured node holds."""

    settings: Settings
    segmenter: Segmenter  # called on the worker's thread only
    worker: Worker[Work]
    pairs: list[CameraPair]


class SegmentNode(LifecycleNodeMixin, Node):  # type: ignore[misc]
    """Lifecycle node `segment`: configure loads the model, activate subscribes.

    One thread of the executor serves parameters, services and timers while another one is in a
    transition, which may take the minutes in which an engine is built. The intake's thread takes
    images and pairs them, the worker's thread owns the engine and publishes.
    """

    def __init__(self, **arguments: Any) -> None:
        """Declare the parameters and wait; with `autostart`, start as soon as the node spins."""
        Node.__init__(self, 'segment', automatically_declare_parameters_from_overrides=True,
                      **arguments)
        # Reentrant: get_state answers while change_state waits, and the state machine refuses a
        # second change itself.
        LifecycleNodeMixin.__init__(self, callback_group=ReentrantCallbackGroup())
        self._lock = RLock()  # of what the node holds; no thread waits for the engine under it
        self._changing = Lock()  # held by a transition
        self._parameter_table = Declared(self, messages.to_descriptor)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._loaded: Loaded | None = None
        self._asked: dict[str, Any] = {}  # CLASS_PARAMETERS: rclpy stores them after the callback
        self._opening: Opening | None = None  # while configure is on its way
        self._fault = ''  # why the last configure failed
        self._enabled = True
        self._intake: Intake | None = None  # None unless active
        self.create_service(SetBool, '~/enable', self._on_enable)
        backward = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1))
        self._jumps = self.get_clock().create_jump_callback(
            backward, post_callback=lambda _: self._on_jump_back())
        # Timers run on the steady clock: under simulated time the node must start, and report,
        # while the clock stands still.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._reporter = Reporter(self, self._report)
        self._transforms = StaticTransforms(self, self._reporter.on_incompatible_qos)
        self.create_timer(1.0, self._on_second, clock=self._steady)
        if self.get_parameter('autostart').value:
            self._starter = self.create_timer(
                0.0, self._on_start, clock=self._steady,
                callback_group=MutuallyExclusiveCallbackGroup())

    def _on_start(self) -> None:
        self._starter.cancel()
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Load the bundle and warm up; a fault is one sentence and leaves the node unconfigured."""
        with self._changing:
            self._opening = Opening(self._log)  # parameters stay as they are from now on
            try:
                loaded = self._load(self._opening)
            except Exception as error:  # rclpy would swallow it without a word
                if not self.context.ok():
                    raise KeyboardInterrupt from None  # nor can it end a transition after SIGTERM
                self._fault, self._opening = str(error), None
                self.get_logger().error(f'cannot configure: {error}')
                return TransitionCallbackReturn.FAILURE
            with self._lock:
                self._loaded, self._fault, self._opening = loaded, '', None
            return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        """Subscribe, and count from zero."""
        assert self._loaded is not None
        with self._changing, self._lock:
            if any(cameras.needs_extrinsics() for cameras in self._loaded.pairs):
                self._transforms.listen()
            self._intake = Intake(self, self._poll)
            for cameras in self._loaded.pairs:
                cameras.activate(self._intake)
            self._intake.start()
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        """Unsubscribe and finish the pair in work; the engine stays loaded."""
        with self._changing:
            self._unsubscribe()
            if self._loaded is not None:
                self._loaded.worker.drain(self.context.ok)
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: Any) -> TransitionCallbackReturn:
        """Close the engine and withdraw the topics, from whatever state."""
        with self._changing:
            self._unload(None)
        return TransitionCallbackReturn.SUCCESS

    on_shutdown = on_error = on_cleanup

    def _unsubscribe(self) -> None:
        with self._lock:
            if self._intake is not None:
                self._intake.stop()
                self._intake = None
            for cameras in self._pairs():
                cameras.deactivate()

    def _unload(self, patience_s: float | None) -> None:
        self._unsubscribe()
        with self._lock:
            loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        try:
            loaded.worker.stop(patience_s, loaded.segmenter.engine.close, self.context.ok)
        except Exception as error:  # an inference library may raise anything
            self.get_logger().error('the engine failed when it was closed '
                                    f'({type(error).__name__}: {error}).')
        for cameras in loaded.pairs:
            cameras.withdraw()

    def _load(self, opening: Opening) -> Loaded:
        """Advertise, so that everyone sees what there is, then open the engine."""
        settings = self._parameter_table.settings(self._asked)
        manifest = load_bundle(settings.bundle)
        find_classes(settings.bundle, manifest, settings.classes, settings.classes_file)
        worker: Worker[Work] = Worker(lambda work: work.cameras.process(work.pair))
        pairs: list[CameraPair] = []
        segmenter = None
        try:
            for own in settings.pairs:
                value = partial(self._parameter_table.value, pair=own.name)
                pairs.append(CameraPair(self, own, manifest, value, self._offer,
                                        self._reporter.on_incompatible_qos))
            segmenter = worker.call(open_segmenter, settings, opening.tell, wanted=self.context.ok)
            for cameras in pairs:
                cameras.use(segmenter)
        except BaseException:
            for cameras in pairs:
                cameras.withdraw()
            with suppress(Exception):  # what failed first is what matters
                worker.stop(PATIENCE_S, segmenter.engine.close if segmenter else int)
            raise
        manifest, engine = segmenter.manifest, segmenter.engine.info
        self.get_logger().info(
            f'{manifest.name} ({manifest.modality}, {len(manifest.classes)} classes) runs on '
            f'{engine.backend} {engine.version}, {engine.device}, {engine.precision}: '
            f'{engine.choice}')
        if engine.warning:
            self.get_logger().warning(engine.warning)
        return Loaded(settings, segmenter, worker, pairs)

    def _log(self, sentence: str) -> None:
        if self.context.ok():  # after SIGINT there is nobody to publish to
            self.get_logger().info(sentence)

    def _pairs(self) -> list[CameraPair]:
        return self._loaded.pairs if self._loaded else []

    def _poll(self) -> None:
        for cameras in self._pairs():
            cameras.poll()

    def _offer(self, work: Work) -> None:
        """Let the newest pair of each pair of cameras wait for the engine."""
        assert self._loaded is not None
        if not self._enabled:
            work.cameras.health.drop('disabled')
        elif self._loaded.worker.offer(work, source=work.cameras.settings.name):
            work.cameras.health.drop('replaced')

    def _on_jump_back(self) -> None:
        with self._received():
            for cameras in self._pairs():
                cameras.feed.reset()

    def _on_second(self) -> None:
        try:
            with self._lock:
                if self._intake is not None:
                    for cameras in self._pairs():
                        cameras.on_second(self._transforms.found)
                self._reporter.on_second()
        except Exception:
            if self.context.ok():  # after SIGINT there is nobody to publish to
                raise

    def _received(self) -> Any:
        """Return the lock under which images come in."""
        return self._intake.lock if self._intake is not None else nullcontext()

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> Any:
        self._enabled = request.data
        response.success = True
        response.message = 'segmenting' if request.data else 'paused: pairs are dropped'
        return response

    def _report(self) -> list[Report]:
        if not self._loaded:
            return [Report(Health(now_ns(self)), {}, [], self._fault, None,
                           opening=self._opening)]
        with self._received():
            reports = [cameras.report(self._fault) for cameras in self._loaded.pairs]
        if self._transforms.subscription is not None:
            connections = [*reports[0].connections, self._transforms.subscription]
            reports[0] = reports[0]._replace(connections=connections)
        return reports

    def _on_set_parameters(self, changes: list[Any]) -> SetParametersResult:
        """Refuse a wrong value, and one that a configured node would not heed."""
        values = {change.name: change.value for change in changes}
        reason = self._parameter_table.change(values,
                                              configured=bool(self._opening or self._loaded))
        if not reason and CLASS_PARAMETERS & values.keys():
            reason = self._choose_classes(values)
        return SetParametersResult(successful=not reason, reason=reason)

    def _choose_classes(self, changes: dict[str, Any]) -> str:
        """Have classes changed between two pairs; return why they cannot, or an empty text."""
        if not self._changing.acquire(timeout=STATE_S):
            return ('the classes cannot change while the node changes its state; set them again '
                    'once it has.')
        asked = self._asked | {name: changes[name] for name in CLASS_PARAMETERS & changes.keys()}
        try:
            if self._loaded is not None:  # else configure looks them up
                settings = self._parameter_table.settings(asked)
                choice = find_classes(settings.bundle, self._loaded.segmenter.exported,
                                      settings.classes, settings.classes_file)
                if choice is not None:
                    self._loaded.worker.call(self._use_classes, self._loaded, choice,
                                             wanted=self.context.ok)
            self._asked = asked
        except Exception as error:  # an inference library may raise anything
            return ' '.join(str(error).split()) or type(error).__name__
        finally:
            self._changing.release()
        return ''

    def _use_classes(self, loaded: Loaded, choice: Choice) -> None:
        """Change the classes; on the engine's thread."""
        loaded.segmenter.set_classes(choice, runs=1)
        for cameras in loaded.pairs:
            cameras.follow_classes()
        names = [info.name for info in choice.classes]
        more = f' and {len(names) - NAMES_TOLD} more' if len(names) > NAMES_TOLD else ''
        self._log(f'the classes are now {", ".join(names[:NAMES_TOLD])}{more} '
                  f'(change {loaded.segmenter.classes_version}).')

    def release(self) -> None:
        """End the worker, then withdraw the topics; an engine that is busy is left behind."""
        # A transition gives up by itself once the context is shut down.
        idle = self._changing.acquire(timeout=PATIENCE_S)
        self._unload(PATIENCE_S)
        if idle:
            self._changing.release()

    def destroy_node(self) -> None:
        """Release what is loaded, and leave the network."""
        self.release()
        super().destroy_node()


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; return the exit code."""
    keep_freed_memory()
    end_on_signals(END_S)
    # The pool of OpenCV spins while it waits for work, for up to 3 ms of CPU per pair; images of
    # a camera's size are done before its threads are awake.
    cv2.setNumThreads(1)
    code = run_command(partial(_spin, args))
    for number in (signal.SIGINT, signal.SIGTERM):  # one more while the interpreter ends
        signal.signal(number, signal.SIG_IGN)
    if any(thread.name.startswith('engine') for thread in threading.enumerate()):
        # An inference, or the loading of a model, cannot be interrupted, and the interpreter would
        # wait for it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _spin(args: list[str] | None) -> None:
    try:
        rclpy.init(args=args)
    except RuntimeError as error:
        raise RgbxSegError(f'the ROS arguments cannot be used: {error}.') from None
    node = None
    try:
        node = SegmentNode()
        executor = MultiThreadedExecutor(2)
        executor.add_node(node)
        while rclpy.ok():
            _spin_on(executor, node)
    except (KeyboardInterrupt, ExternalShutdownException):  # the first one by a transition
        pass
    except Exception:
        if rclpy.ok():
            raise  # else the signal took the context away from under a callback that published
    finally:
        if node is not None:
            node.release()
        exit_after(PATIENCE_S, 1 if sys.exc_info()[0] else 0)
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()


def _spin_on(executor: MultiThreadedExecutor, node: SegmentNode) -> None:
    try:
        executor.spin_once()
    except rclpy_implementation.InvalidHandle:  # an event of a topic that was withdrawn meanwhile
        pass
    except rclpy_implementation.RCLError as error:  # Humble: a transition that is not possible now
        if rclpy.ok():
            node.get_logger().warning(f'a service failed: {error}.')


if __name__ == '__main__':
    sys.exit(main())
