# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 node: pairs the two cameras' images, segments the newest pair, publishes the mask."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any, NamedTuple

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rgbx_seg.msg import SegmentationStats
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import SetBool

from rgbx_seg_ros import RgbxSegError, messages, overlay
from rgbx_seg_ros.cli import run_command
from rgbx_seg_ros.diagnostics import Report, Reporter
from rgbx_seg_ros.health import Health, Timing
from rgbx_seg_ros.images import ImageError
from rgbx_seg_ros.parameters import Declared, Settings
from rgbx_seg_ros.segmenter import Segmenter
from rgbx_seg_ros.sync import STREAMS, Pair, Pairer
from rgbx_seg_ros.thermal import to_uint8
from rgbx_seg_ros.worker import Worker, open_segmenter

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

SENSOR, RESULT = qos_profile_sensor_data, QoSProfile(depth=2)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
POLL_S = 0.02  # how precisely sync.max_wait is kept


class Loaded(NamedTuple):
    """What a configured node holds."""

    settings: Settings
    segmenter: Segmenter  # called on the worker's thread only
    worker: Worker[Pair]
    palette: Any  # uint8 (256, 3)
    publishers: dict[str, Any]  # by topic below ~/


class SegmentNode(LifecycleNode):  # type: ignore[misc]
    """Lifecycle node `segment`: configure loads the model, activate subscribes.

    All callbacks are in one, mutually exclusive group, so the pairer needs no lock.
    """

    def __init__(self, **arguments: Any) -> None:
        """Declare the parameters and wait; with `autostart`, start as soon as the node spins."""
        super().__init__('segment', automatically_declare_parameters_from_overrides=True,
                         **arguments)
        self._parameter_table = Declared(self, messages.to_descriptor)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._loaded: Loaded | None = None
        self._fault = ''  # why the last configure failed
        self._inputs: dict[str, Any] = {}  # stream -> subscription
        self._enabled = True
        self._camera_info: CameraInfo | None = None
        self._pairer = Pairer()
        self._health = Health(self._now_ns())
        self.create_service(SetBool, '~/enable', self._on_enable)
        backward = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1))
        self._jumps = self.get_clock().create_jump_callback(
            backward, post_callback=lambda _: self._pairer.reset())
        # Timers run on the steady clock: under simulated time the node must start, and report,
        # while the clock stands still.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, Reporter(self, self._report).on_second, clock=self._steady)
        if self.get_parameter('autostart').value:
            self._starter = self.create_timer(0.0, self._on_start, clock=self._steady)

    def _on_start(self) -> None:
        self._starter.cancel()
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Load the bundle and warm up; a fault is one sentence and leaves the node unconfigured."""
        try:
            self._loaded = self._load()
        except Exception as error:  # rclpy would swallow it without a word
            if not self.context.ok():
                raise KeyboardInterrupt from None  # nor can it end a transition after SIGTERM
            self._fault = str(error)
            self.get_logger().error(f'cannot configure: {error}')
            return TransitionCallbackReturn.FAILURE
        self._fault = ''
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        """Subscribe, and count from zero."""
        assert self._loaded is not None
        self._pairer = Pairer(self._loaded.settings.sync)
        self._health = Health(self._now_ns())
        self._subscribe(self._loaded)
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        """Unsubscribe and finish the pair in work; the engine stays loaded."""
        if self._inputs:
            self.destroy_timer(self._poller)
        while self._inputs:
            self.destroy_subscription(self._inputs.popitem()[1])
        if self._loaded is not None:
            self._loaded.worker.drain()
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: Any) -> TransitionCallbackReturn:
        """Close the engine and withdraw the topics, from whatever state."""
        self.on_deactivate(state)
        if self._loaded is not None:
            loaded, self._loaded = self._loaded, None
            loaded.worker.call(loaded.segmenter.engine.close)
            loaded.worker.stop()
            for publisher in loaded.publishers.values():
                self.destroy_publisher(publisher)
        return TransitionCallbackReturn.SUCCESS

    on_shutdown = on_error = on_cleanup

    def _load(self) -> Loaded:
        settings = self._parameter_table.settings()
        worker = Worker(self._on_pair)
        try:
            segmenter = worker.call(open_segmenter, settings)
            publishers = self._advertise(segmenter)
        except BaseException:
            worker.stop()
            raise
        manifest, engine = segmenter.manifest, segmenter.engine.info
        self.get_logger().info(
            f'{manifest.name} ({manifest.modality}, {len(manifest.classes)} classes) runs on '
            f'{engine.backend} {engine.version}, {engine.device}, {engine.precision}.')
        return Loaded(settings, segmenter, worker, overlay.palette(manifest.classes), publishers)

    def _advertise(self, segmenter: Segmenter) -> dict[str, Any]:
        """Create the publishers, by topic below ~/, and publish the latched messages."""
        kinds = {name: kind for name, (kind, _) in messages.OUTPUTS.items()}
        publishers = {name: self.create_publisher(kind, f'~/{name}', RESULT)
                      for name, kind in (kinds | {'stats': SegmentationStats}).items()}
        stamp = self.get_clock().now().to_msg()
        for name, to_message in messages.LATCHED.items():
            message = to_message(segmenter.manifest, segmenter.engine.info, stamp)
            if message is None:
                self.get_logger().info(f'vision_msgs is not installed: no ~/{name}.')
                continue
            publishers[name] = self.create_publisher(type(message), f'~/{name}', LATCHED)
            publishers[name].publish(message)
        return publishers

    def _subscribe(self, loaded: Loaded) -> None:
        events = SubscriptionEventCallbacks(message_lost=lambda event: self._health.drop(
            'lost_on_wire', event.total_count_change))
        for stream, base in (('rgb', 'rgb'), ('aux', loaded.segmenter.manifest.modality)):
            kind, suffix = messages.INPUTS[getattr(loaded.settings, f'{stream}_transport')]
            arguments = (kind, f'{base}/image_raw{suffix}', partial(self._on_image, stream), SENSOR)
            try:
                self._inputs[stream] = self.create_subscription(*arguments, event_callbacks=events)
            except UnsupportedEventTypeError:  # this middleware does not count its losses
                self._inputs[stream] = self.create_subscription(*arguments)
        self._inputs['camera_info'] = self.create_subscription(
            CameraInfo, 'rgb/camera_info', partial(setattr, self, '_camera_info'), SENSOR)
        self._poller = self.create_timer(
            POLL_S, lambda: self._offer(self._pairer.poll(self._hold_ns())), clock=self._steady)

    def _on_image(self, stream: str, message: Any) -> None:
        """Hand one image of stream 'rgb' or 'aux' over to the pairer."""
        self._health.receive(stream, self._now_ns())
        try:
            messages.check(message)
        except ImageError as error:
            self._skip(error.cause, f'{self._inputs[stream].topic_name}: {error}')
            return
        self._offer(self._pairer.add(
            stream, messages.stamp_ns(message.header), self._hold_ns(), message))

    def _offer(self, pairs: list[Pair]) -> None:
        """Let the newest pair wait for the engine."""
        assert self._loaded is not None
        for pair in pairs:
            if not self._enabled:
                self._health.drop('disabled')
            elif self._loaded.worker.offer(pair):
                self._health.drop('replaced')

    def _on_pair(self, pair: Pair) -> None:
        """Serve one pair (worker's thread); whatever goes wrong with it, the next one comes."""
        try:
            self._segment(pair)
        except ImageError as error:
            self._skip(error.cause, f'an image of a pair cannot be used: {error}')
        except Exception as error:  # an inference library may raise anything
            if self.context.ok():  # after SIGINT there is nobody to publish to
                self._skip('engine', f'a pair failed: {type(error).__name__}: {error}')

    def _segment(self, pair: Pair) -> None:
        """Segment one pair and publish what someone listens to."""
        loaded, began = self._loaded, time.perf_counter()
        assert loaded is not None
        wait_ms = (self._hold_ns() - max(pair.rgb.arrival_ns, pair.aux.arrival_ns)) / 1e6
        wanted = [name for name in (*messages.OUTPUTS, 'stats')
                  if loaded.publishers[name].get_subscription_count()]
        if not wanted:
            self._health.drop('no_listener')
            return
        rgb = messages.to_rgb(pair.rgb.data)
        aux = to_uint8(messages.to_array(pair.aux.data), loaded.segmenter.manifest.aux)
        decoded = time.perf_counter()
        result = loaded.segmenter(rgb, aux)
        segmented = time.perf_counter()
        view = messages.View(pair.rgb.data.header, pair.aux.data.header, rgb, aux, result,
                             loaded.palette, self.get_parameter('overlay.alpha').value,
                             self._camera_info)
        times_ns = [self._publish(loaded, name, view) for name in wanted if name != 'stats']
        ended = time.perf_counter()
        mask_ns = times_ns[0] if times_ns else self._now_ns()
        timing = Timing(
            skew_ms=pair.skew_ns / 1e6, latency_ms=(mask_ns - pair.rgb.stamp_ns) / 1e6,
            engine_ms=result.engine_ms, overhead_ms=(ended - began) * 1e3 - result.engine_ms,
            decode_ms=(decoded - began) * 1e3, postprocess_ms=(ended - segmented) * 1e3,
            wait_ms=wait_ms)
        self._health.publish(timing)
        if 'stats' in wanted:
            loaded.publishers['stats'].publish(messages.to_stats(
                view, timing, loaded.segmenter.manifest, self._health.counts(self._pairer.drops)))

    def _publish(self, loaded: Loaded, name: str, view: messages.View) -> int:
        """Publish one output, if there is anything to say; return the time."""
        if (message := messages.OUTPUTS[name][1](view)) is not None:
            loaded.publishers[name].publish(message)
        return self._now_ns()

    def _skip(self, cause: str, sentence: str) -> None:
        """Count what cannot be used, and say why the first time."""
        self._health.drop(cause)
        if self._health.first(cause):
            self.get_logger().warning(f'{sentence} Skipped; more of this kind are only counted.')

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> Any:
        self._enabled = request.data
        response.success = True
        response.message = 'segmenting' if request.data else 'paused: pairs are dropped'
        return response

    def _report(self) -> Report:
        return Report(
            self._health, self._pairer.drops, fault=self._fault,
            inputs=[self._inputs[stream].topic_name for stream in STREAMS if self._inputs],
            engine=self._loaded.segmenter.engine.info if self._loaded else None)

    def _on_set_parameters(self, changes: list[Any]) -> SetParametersResult:
        """Refuse a wrong value, and one that a configured node would not heed."""
        reason = self._parameter_table.change({change.name: change.value for change in changes},
                                              configured=self._loaded is not None)
        return SetParametersResult(successful=not reason, reason=reason)

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _hold_ns(self) -> int:
        """Return the time by which frames wait: simulated, or else one that no NTP step moves."""
        return self._now_ns() if self.get_clock().ros_time_is_active else time.monotonic_ns()

    def destroy_node(self) -> None:
        """End the worker before the publishers go."""
        self.on_cleanup(None)
        super().destroy_node()


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; return the exit code."""
    return run_command(partial(_spin, args))


def _spin(args: list[str] | None) -> None:
    try:
        rclpy.init(args=args)
    except RuntimeError as error:
        raise RgbxSegError(f'the ROS arguments cannot be used: {error}.') from None
    node = None
    try:
        node = SegmentNode()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        if rclpy.ok():
            raise  # else the signal took the context away from under a callback that published
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()


if __name__ == '__main__':
    sys.exit(main())
