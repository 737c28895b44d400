# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Images off the wire on a thread of their own, past rclpy's executor.

At each wake-up the executor builds a wait set of all that a node has (services, timers, events):
for this node 2 ms of CPU on a 2.5 GHz core, and it wakes several times per pair of images. This
thread waits for its subscriptions alone, in the way of rclpy.wait_for_message, for 0.1 ms.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from threading import RLock, Thread
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.impl.implementation_singleton import rclpy_implementation

POLL_S = 0.02  # between calls of `on_poll` where nothing arrives
EVENTS_S = 0.5  # between looks at the events of the subscriptions


class _Apart(ReentrantCallbackGroup):  # type: ignore[misc]
    """Keeps subscriptions from the executor, and their events too: each message wakes those."""

    def can_execute(self, entity: Any) -> bool:
        """Return that the executor may serve nothing of this group."""
        return False


class Intake:
    """Serves subscriptions of a node, all on one thread, from `start` to `stop`.

    `lock` is held while a callback runs: code on other threads that shares its state takes it, and
    finds that no callback runs meanwhile, nor one of a subscription that it has withdrawn.
    """

    def __init__(self, node: Any, on_poll: Callable[[], None]) -> None:
        """Take an rclpy node; `on_poll` is a callback that follows every wake-up."""
        self.lock = RLock()
        self._node = node
        self._on_poll = on_poll
        self._group = _Apart()
        self._subscriptions: tuple[Any, ...] = ()
        self._thread: Thread | None = None
        self._stopped = False
        with node.context.handle:
            self._wake = rclpy_implementation.GuardCondition(node.context.handle)

    def subscribe(self, kind: type, topic: str, callback: Callable[[Any], None], qos: Any,
                  **arguments: Any) -> Any:
        """Return a subscription as node.create_subscription makes it.

        What a callback raises, its own or one of its events, is logged, and the next one comes.
        """
        subscription = self._node.create_subscription(
            kind, topic, callback, qos, callback_group=self._group, **arguments)
        self._change((*self._subscriptions, subscription))
        return subscription

    def unsubscribe(self, subscription: Any) -> None:
        """Withdraw a subscription."""
        self._change(tuple(sub for sub in self._subscriptions if sub is not subscription))
        self._node.destroy_subscription(subscription)

    def start(self) -> None:
        """Begin to serve."""
        self._stopped = False
        self._thread = Thread(target=self._run, name='intake', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Withdraw all subscriptions and end the thread; not under the lock."""
        self._stopped = True
        for subscription in self._subscriptions:
            self.unsubscribe(subscription)
        if self._thread is not None:
            self._wake.trigger_guard_condition()
            self._thread.join()
            self._thread = None

    def _change(self, subscriptions: tuple[Any, ...]) -> None:
        with self.lock:
            self._subscriptions = subscriptions
        self._wake.trigger_guard_condition()

    def _is_over(self) -> bool:
        return self._stopped or not self._node.context.ok()

    def _run(self) -> None:
        while not self._is_over():
            self._serve(self._subscriptions)

    def _serve(self, subscriptions: tuple[Any, ...]) -> None:
        """Serve these subscriptions for as long as they are all and the only ones."""
        context = self._node.context.handle
        events = [event for sub in subscriptions for event in sub.event_handlers]
        with ExitStack() as in_use:  # what is in use is not destroyed
            with self.lock:
                if self._subscriptions is not subscriptions:
                    return  # one of them may be on its way out, and cannot be entered
                for handle in (context, *(sub.handle for sub in subscriptions), *events):
                    in_use.enter_context(handle)
            by_pointer = {sub.handle.pointer: sub for sub in subscriptions}
            messages = rclpy_implementation.WaitSet(len(by_pointer), 1, 0, 0, 0, 0, context)
            others = rclpy_implementation.WaitSet(0, 0, 0, 0, 0, len(events), context)
            due_s = time.monotonic() + EVENTS_S
            while self._subscriptions is subscriptions and not self._is_over():
                messages.clear_entities()
                messages.add_guard_condition(self._wake)
                for subscription in subscriptions:
                    messages.add_subscription(subscription.handle)
                messages.wait(round(POLL_S * 1e9))
                for pointer in messages.get_ready_entities('subscription'):
                    self._take(by_pointer[pointer])
                self._call(self._on_poll)
                if events and time.monotonic() >= due_s:
                    due_s = time.monotonic() + EVENTS_S
                    with self.lock:  # rclpy enters the events anew
                        if self._subscriptions is subscriptions:
                            self._take_events(events, others)

    def _take(self, subscription: Any) -> None:
        try:
            taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
        except Exception as error:  # bytes that are no message, where the middleware passes them on
            self._complain(error, f'a message on {subscription.topic_name}')
            return
        with self.lock:
            if taken is not None and subscription in self._subscriptions:
                self._call(subscription.callback, taken[0])

    def _take_events(self, events: list[Any], wait_set: Any) -> None:
        wait_set.clear_entities()
        for event in events:
            event.add_to_wait_set(wait_set)
        wait_set.wait(0)
        for event in events:
            if event.is_ready(wait_set) and (data := event.take_data()):
                self._call(event.callback, data)

    def _call(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            with self.lock:
                callback(*arguments)
        except Exception as error:  # a thread that ends would end the images without a word
            self._complain(error, 'a callback')

    def _complain(self, error: Exception, place: str) -> None:
        if not self._is_over():  # after SIGINT there is nobody to publish to
            self._node.get_logger().error(f'{type(error).__name__} in {place}: {error}')
