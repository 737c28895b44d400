# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""One RGB and one aux camera on the node: their topics, their pairs, and what becomes of them.

The intake's thread receives and pairs images; the engine's thread processes the newest pair of each
camera pair. Publishers live while the node is configured, subscriptions while it is active.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rgbx_seg.msg import SegmentationStats
from sensor_msgs.msg import CameraInfo, Image

from rgbx_seg_ros import RgbxSegError, endpoints, messages, overlay
from rgbx_seg_ros.degraded import Feed
from rgbx_seg_ros.depth_images import DepthImages
from rgbx_seg_ros.diagnostics import Report
from rgbx_seg_ros.engine import EngineInfo
from rgbx_seg_ros.health import Facts, Health, Timing
from rgbx_seg_ros.images import ImageError
from rgbx_seg_ros.intake import Intake
from rgbx_seg_ros.live_score import LiveScore
from rgbx_seg_ros.manifest import Manifest
from rgbx_seg_ros.parameters import PairSettings
from rgbx_seg_ros.pipeline import Pipeline
from rgbx_seg_ros.registration import Registration
from rgbx_seg_ros.segmenter import Segmenter
from rgbx_seg_ros.sync import STREAMS, Pair
from rgbx_seg_ros.thermal import AuxFrontEnd
from rgbx_seg_ros.transforms import Transforms

SENSOR, RESULT = qos_profile_sensor_data, QoSProfile(depth=2)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
NO_ENGINE = EngineInfo('', '', '', '')
MAX_REASON = 400  # characters of what an inference library has to say
DEPTH_TOPIC = 'depth_registered/image_rect'  # as depth_image_proc names it
MISSING_S = 3  # seconds after which something that is waited for is told of


class Work(NamedTuple):
    """A pair of images and the cameras it came from, on its way to the engine's thread."""

    cameras: CameraPair
    pair: Pair


class CameraPair:
    """The topics and the state of one pair of cameras on a node."""

    _pipeline: Pipeline  # from `use` on

    def __init__(self, node: Any, settings: PairSettings, manifest: Manifest,
                 value: Callable[[str], Any], offer: Callable[[Work], None],
                 on_incompatible_qos: Callable[[str, bool, Any], None]) -> None:
        """Advertise the results of a bundle, whose engine follows: `use` takes it.

        Raises RgbxSegError, with nothing advertised, if the settings do not suit the bundle.

        `value` gives the present value of a parameter, `offer` takes work for the engine, and
        `on_incompatible_qos` the middleware's complaint about a topic: published or not, event.
        """
        self.settings = settings
        self._node, self._value, self._offer = node, value, offer
        self._on_incompatible_qos = on_incompatible_qos
        self._prefix = f'{settings.name}/' if settings.name else ''
        _check(settings, manifest)
        self._intake: Any = None  # set while active
        self._inputs: dict[str, Any] = {}  # stream, stream_info or depth -> subscription
        self._topics: dict[str, str] = {}  # the same -> its full name
        self._infos: dict[str, CameraInfo] = {}  # stream -> its newest
        self._info_faults: dict[str, str] = {}  # stream -> why its CameraInfo is of no use
        self._depths = DepthImages(settings.sync.max_skew_s)
        self._missing_s: dict[str, int] = {}  # sentence -> seconds for which it has been true
        self._rgb_frame_id = ''
        self._publishers: dict[str, Any] = {}
        self._sent: dict[str, Any] = {}  # output -> its last message, written anew each time
        self._score: LiveScore | None = None  # where labels are wanted, once active
        self._telling = Lock()  # of the latched messages: the newest must be the last
        self._restart()
        self._advertise(manifest)
        if settings.degraded.aux_lost == 'rgb_only' and not manifest.aux_dropout:
            node.get_logger().warning(
                'degraded.aux_lost is rgb_only, but the bundle was not trained with aux dropout '
                '(aux_dropout is 0 in its manifest); masks from RGB alone will be poor: train with '
                'augment.p_aux_dropout above 0.')

    # Lifecycle, on the executor's threads, under the node's lock

    def _restart(self) -> None:
        self.feed = Feed(self.settings.sync, self.settings.degraded)
        self.health = Health(now_ns(self._node), self.settings.health, self.settings.name)
        self._failure, self._broken = '', False  # why the last pair failed, and whether all will

    def _advertise(self, manifest: Manifest) -> None:
        """Create the publishers, by topic below ~/."""
        kinds = {name: kind for name, (kind, _) in messages.OUTPUTS.items()}
        for name, kind in (kinds | {'stats': SegmentationStats}).items():
            self._publishers[name] = self._publisher(kind, name, RESULT)
        for name in messages.LATCHED:
            message = self._latched(name, manifest, NO_ENGINE)  # for its type
            if message is None:
                self._node.get_logger().info(f'vision_msgs is not installed: no ~/{name}.')
                continue
            self._publishers[name] = self._publisher(type(message), name, LATCHED)

    def use(self, segmenter: Segmenter) -> None:
        """Take the engine, and publish the latched messages: what they tell is there now."""
        # Read anew, and perhaps of another bundle by now.
        self._pipeline = Pipeline(segmenter, self.settings.pipeline)
        self._modality = segmenter.manifest.modality
        self._tell_classes()

    def follow_classes(self) -> None:
        """Go on with the segmenter's new classes; on the engine's thread, between two pairs."""
        self._pipeline.forget_labels()
        if self._score is not None:
            self._score.close()
            self._score = self._new_score()
        self._tell_classes()

    def _tell_classes(self) -> None:
        """Take the colors of the classes, and publish the latched messages, before any mask."""
        self._palette = overlay.palette(self._pipeline.segmenter.manifest.classes)
        for name in messages.LATCHED:
            self._tell_latched(name)

    def _tell_latched(self, name: str) -> None:
        if name in self._publishers:
            segmenter = self._pipeline.segmenter
            with self._telling:
                self._publishers[name].publish(
                    self._latched(name, segmenter.manifest, segmenter.engine.info,
                                  segmenter.classes_version))

    def _latched(self, name: str, manifest: Manifest, engine: EngineInfo, version: int = 0) -> Any:
        self._threshold = self._value('confidence.threshold')
        return messages.LATCHED[name](manifest, engine, self._node.get_clock().now().to_msg(),
                                      self._threshold, version)

    def _new_score(self) -> LiveScore:
        segmenter = self._pipeline.segmenter
        return LiveScore(segmenter.exported.classes,
                         lambda cause, text: self._tell(cause, 'label', text),
                         segmenter.manifest.classes)

    def activate(self, intake: Intake) -> None:
        """Subscribe, and count from zero."""
        self._restart()
        self._intake = intake
        transports = (self.settings.rgb_transport, self.settings.aux_transport)
        for stream, base, transport in zip(STREAMS, ('rgb', self._modality), transports,
                                           strict=True):
            kind, suffix = messages.INPUTS[transport]
            self._subscribe(kind, f'{base}/image_raw{suffix}', stream,
                            partial(self._on_image, stream))
            self._subscribe(CameraInfo, f'{base}/camera_info', f'{stream}_info',
                            partial(self._on_info, stream))
        if self.settings.score.labels:
            self._score = self._new_score()
            kind, suffix = messages.INPUTS[self.settings.score.transport]
            self._subscribe(kind, f'label/image_raw{suffix}', 'label', self._on_label)

    def deactivate(self) -> None:
        """Forget the subscriptions, which the intake has withdrawn; the work in hand goes on."""
        self._inputs.clear()
        self._depths.clear()
        if self._score is not None:
            self._score.close()

    def withdraw(self) -> None:
        """Withdraw the topics."""
        self.deactivate()
        while self._publishers:
            self._node.destroy_publisher(self._publishers.popitem()[1])

    def needs_extrinsics(self) -> bool:
        """Return whether the registration takes extrinsics from /tf_static."""
        return self._pipeline.registration.needs_extrinsics

    def on_second(self, transforms: Transforms) -> None:
        """Take what changes slowly: extrinsics, the threshold, who wants depth, what is missing."""
        registration = self._pipeline.registration
        rgb, aux = registration.rgb_camera, registration.aux_camera
        if rgb is not None and aux is not None:
            registration.extrinsics = transforms.lookup(aux.frame_id, rgb.frame_id)
        if self._threshold != self._value('confidence.threshold'):
            self._tell_latched('label_info')
        points = bool(self._publishers['points'].get_subscription_count())
        wanted = registration.config.mode == 'depth' or points
        if wanted and self._inputs and 'depth' not in self._inputs:
            self._subscribe(Image, DEPTH_TOPIC, 'depth', self._depths.add)
        elif not wanted and 'depth' in self._inputs:
            self._intake.unsubscribe(self._inputs.pop('depth'))
            self._depths.clear()
        self._tell_missing(points)

    def _missing(self) -> str:
        """Return what the registration waits for, in one sentence; '' if for nothing."""
        registration = self._pipeline.registration
        if missing := registration.missing():
            return next(iter(self._info_faults.values()), missing)
        if registration.config.mode == 'depth' and not self._depths.found:
            return (f'registration waits for depth images on {self._prefix}{DEPTH_TOPIC}, on time '
                    'with RGB; until then, plane or distance hold.')
        return ''

    def _tell_missing(self, points: bool) -> None:
        """Warn once of what has been missing for a while; `points`: someone wants the cloud."""
        sentences = [self._missing()]
        lacking = [f'{self._prefix}{topic}' for topic, there in (
            (DEPTH_TOPIC, self._depths.found),
            ('rgb/camera_info', self._pipeline.registration.rgb_camera)) if not there]
        if points and lacking:
            sentences.append(f'~/{self._prefix}points waits for {" and ".join(lacking)}; start the '
                             'depth camera, which must be calibrated and on time with RGB, or '
                             'remap the topics.')
        self._missing_s = {sentence: self._missing_s.get(sentence, 0) + 1
                           for sentence in sentences if sentence}
        for sentence, seconds in self._missing_s.items():
            if seconds >= MISSING_S:
                self._tell(sentence, '', sentence)

    def report(self, fault: str) -> Report:
        """Return what the diagnostics tell; `fault` says why the node is not configured."""
        registration, engine = self._pipeline.registration, self._pipeline.segmenter.engine.info
        score = self._score.score if self._score is not None else None
        facts = Facts(self.feed.state, self.feed.frozen, self.feed.frozen_rgb,
                      self.feed.skew_median_ns, registration.config.mode, self._missing(),
                      registration.coverage,
                      failure=self._failure, broken=self._broken, score=score)
        return Report(self.health, self.feed.drops,
                      [self._inputs[name].topic_name for name in (*STREAMS, 'label')
                       if name in self._inputs],
                      fault, engine, facts, [*self._inputs.values(), *self._publishers.values()])

    def _publisher(self, kind: type, name: str, qos: QoSProfile) -> Any:
        return endpoints.publisher(self._node, kind, f'~/{self._prefix}{name}', qos,
                                   incompatible_qos=partial(self._on_mismatch, name, True))

    def _subscribe(self, kind: type, topic: str, name: str,
                   callback: Callable[[Any], None]) -> None:
        cause = 'lost_on_wire' if name in STREAMS else 'lost_beside'
        self._inputs[name] = endpoints.subscription(
            self._intake.subscribe, kind, self._prefix + topic, callback, SENSOR,
            incompatible_qos=partial(self._on_mismatch, name, False),
            message_lost=lambda event: self.health.drop(cause, event.total_count_change, name))
        self._topics[name] = self._inputs[name].topic_name

    def _on_mismatch(self, name: str, publishing: bool, event: Any) -> None:
        end = (self._publishers if publishing else self._inputs).get(name)
        if end is not None:  # else it has been withdrawn meanwhile
            self._on_incompatible_qos(end.topic_name, publishing, event)

    # Images, on the intake's thread

    def _on_image(self, stream: str, message: Any) -> None:
        """Hand one image of stream 'rgb' or 'aux' over to the feed."""
        stamp_ns = messages.stamp_ns(message.header)
        self.health.receive(stream, now_ns(self._node), stamp_ns, messages.encoding(message))
        try:
            self._tell('lossy', stream, messages.check(stream, message))
        except ImageError as error:
            self._skip(error.cause, stream, str(error))
            return
        self._hand_over(self.feed.add(stream, stamp_ns, hold_ns(self._node), message, message.data))

    def _on_label(self, message: Any) -> None:
        """Hand a label over to the score of the classes that are in force."""
        if self._score is not None:
            self._score.add_message(message)

    def _on_info(self, stream: str, message: CameraInfo) -> None:
        """Let the registration know of a camera, and pass the one of RGB on."""
        self._infos[stream] = message
        camera = None
        try:
            camera = messages.to_camera(message)
            self._info_faults.pop(stream, None)
        except RgbxSegError as error:  # told if somebody waits for this camera
            self._info_faults[stream] = str(error)
        setattr(self._pipeline.registration, f'{stream}_camera', camera)

    def poll(self) -> None:
        """Hand over the pairs whose frames have waited long enough."""
        self._hand_over(self.feed.poll(hold_ns(self._node)))

    def _hand_over(self, pairs: list[Pair]) -> None:
        for pair in pairs:
            self._offer(Work(self, pair))

    # Results, on the engine's thread

    def process(self, pair: Pair) -> None:
        """Serve one pair; whatever goes wrong with it, the next one comes."""
        try:
            self._segment(pair)
        except ImageError as error:
            self._skip(error.cause, '', f'an image of a pair cannot be used: {error}')
        except Exception as error:  # an inference library may raise anything
            if self._node.context.ok():  # after SIGINT there is nobody to publish to
                kind = '' if isinstance(error, RgbxSegError) else f'{type(error).__name__}: '
                self._failure = ' '.join(f'{kind}{error}'.split())[:MAX_REASON]
                # What is wrong with a lost CUDA context stays wrong until the process ends.
                is_lost = getattr(self._pipeline.segmenter.engine, 'is_lost', bool)
                self._broken = self._broken or is_lost()
                self._skip('engine', '', f'a pair failed: {self._failure}')

    def _segment(self, pair: Pair) -> None:
        """Segment one pair and publish what someone listens to."""
        began = time.perf_counter()
        wait_ms = (hold_ns(self._node) - max(f.arrival_ns for f in pair[:2] if f)) / 1e6
        wanted = [name for name in (*messages.OUTPUTS, 'stats')
                  if self._publishers[name].get_subscription_count()]
        if not wanted and self._score is None:
            self.health.drop('no_listener')
            return
        if self._pipeline.registration.missing():
            self.health.drop('registration')
            return
        rgb = messages.to_rgb(pair.rgb.data) if pair.rgb else None
        aux = messages.to_array(pair.aux.data) if pair.aux else None
        header = self._header(pair)
        depth = self._depth(messages.stamp_ns(header))
        decoded = time.perf_counter()
        done = self._pipeline(
            rgb, aux, messages.encoding(pair.aux.data) if pair.aux else '',
            messages.stamp_ns(header), depth, self._value('confidence.threshold'),
            self._value('mask.smoothing'), self._value('scene.every'))
        segmented = time.perf_counter()
        view = messages.View(
            header, pair.aux.data.header if pair.aux else header, done.rgb, done.aux, done.result,
            self._palette, self._value('overlay.alpha'), self._infos.get('rgb'), depth,
            self._pipeline.registration.rgb_camera,
            self._pipeline.registration.config.mode != 'none')
        sent_ns = [self._publish(name, view) for name in wanted if name != 'stats']
        ended = time.perf_counter()
        result = done.result
        mask_ns = sent_ns[0] if sent_ns else now_ns(self._node)
        timing = Timing(
            skew_ms=pair.skew_ns / 1e6,
            latency_ms=(mask_ns - messages.stamp_ns(header)) / 1e6,
            engine_ms=result.engine_ms, overhead_ms=(ended - began) * 1e3 - result.engine_ms,
            decode_ms=(decoded - began) * 1e3, thermal_ms=done.thermal_ms,
            registration_ms=done.registration_ms, resize_ms=result.resize_ms,
            publish_ms=(ended - segmented) * 1e3, wait_ms=wait_ms)
        self.health.publish(timing)
        for note in self._pipeline.notes():
            self._tell(re.sub(r'\d+', '', note), '', note)  # one kind, whatever the numbers
        if 'stats' in wanted:
            self._publishers['stats'].publish(messages.to_stats(
                view, timing, pair.state, self._pipeline.segmenter.manifest,
                self.health.counts(self.feed.drops), self._score.score if self._score else None,
                self._pipeline.segmenter.classes_version))
        if self._score is not None:
            self._score.add_mask(messages.stamp_ns(header), result.label)

    def _header(self, pair: Pair) -> Any:
        """Return the header of the mask: that of the RGB frame, bit for bit, if it is new."""
        if pair.rgb is not None:
            self._rgb_frame_id = pair.rgb.data.header.frame_id
            if pair.aux is None or pair.state != 'hold_rgb':
                return pair.rgb.data.header
        assert pair.aux is not None
        return messages.to_header(pair.aux.data.header.stamp, self._rgb_frame_id)

    def _depth(self, stamp_ns: int) -> Any:
        """Return the depth at a stamp in meters; None if nobody needs it, or if there is none."""
        try:
            return self._depths.meters(stamp_ns) if 'depth' in self._inputs else None
        except (ImageError, RgbxSegError) as error:  # masks go on without
            self._tell('depth', 'depth', str(error))
            return None

    def _publish(self, name: str, view: messages.View) -> int:
        """Publish one output, if there is anything to say; return the time."""
        message = messages.OUTPUTS[name][1](view, self._sent.get(name))
        if message is not None:
            self._sent[name] = message  # publish() has copied it by the time it returns
            self._publishers[name].publish(message)
        return now_ns(self._node)

    def _skip(self, cause: str, stream: str, sentence: str) -> None:
        """Count what cannot be used, and say why the first time."""
        self.health.drop(cause, stream=stream)
        self._tell(cause, stream, f'{sentence} Skipped; more of this kind are only counted.')

    def _tell(self, cause: str, stream: str, sentence: str) -> None:
        """Log a warning, once per cause and stream."""
        if sentence and self.health.first(cause, stream):
            # Kept, for a subscription may be gone by now; else the pair's name, if it has one.
            topic = self._topics.get(stream, self.settings.name)
            self._node.get_logger().warning(f'{topic}: {sentence}' if topic else sentence)


def _check(settings: PairSettings, manifest: Manifest) -> None:
    """Raise now, and not after minutes for an engine, what a pipeline would raise."""
    AuxFrontEnd(manifest.aux, settings.pipeline.aux)
    Registration(replace(settings.pipeline.registration, aux_name=manifest.modality))


def now_ns(node: Any) -> int:
    """Return the time of the node's clock, simulated or not."""
    return int(node.get_clock().now().nanoseconds)


def hold_ns(node: Any) -> int:
    """Return the time by which frames wait: simulated, or else one that no NTP step moves."""
    return now_ns(node) if node.get_clock().ros_time_is_active else time.monotonic_ns()
