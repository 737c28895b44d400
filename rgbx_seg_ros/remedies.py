# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Every warning of the node in words: what was found, what it means, and what to do about it.

docs/diagnostics.md lists them; a test compares the two.
"""

from __future__ import annotations

# Causes that someone can do something about: logged once, when they have been counted often enough.
REMEDIES = {
    'zero_stamp': 'a message came with a zero header stamp and cannot be paired; let the camera '
                  'driver stamp its frames.',
    'lost_on_wire': 'the middleware lost images on the way to this node; enlarge its buffers, for '
                    'Fast DDS FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA on both sides.',
    'replaced': 'pairs waited while the model was busy and were replaced by newer ones: the model '
                'is slower than the cameras; the mask is as fresh as it can be, a smaller model or '
                'a faster backend makes it more frequent.',
    'late': 'frames came after their turn and were skipped; if this goes on, look at the network.',
    'duplicate': 'a frame came twice with one stamp; look for two publishers on one topic.',
    'unpaired_rgb': 'RGB frames found no aux frame within sync.max_skew; if the aux camera did not '
                    'pause, compare the stamps of both and set sync.aux_offset.',
    'unpaired_aux': 'aux frames found no RGB frame within sync.max_skew; if the RGB camera did not '
                    'pause, compare the stamps of both and set sync.aux_offset.',
    'clock_disagreement': 'frames of both cameras arrive together, but their stamps are further '
                          'apart than sync.max_skew: the cameras are on different clocks; '
                          'synchronize them (chrony, PTP), or set sync.aux_offset.',
    'overflow': 'one stream came without the other until its queue was full; is the other camera '
                'running?',
    'backward_jump': 'the stamps jumped back (a looped bag or a restarted clock); pairing started '
                     'anew.',
}
# A start costs a frame or two of these; they tell something only when they go on.
TELL_FROM = {'replaced': 10, 'late': 3, 'unpaired_rgb': 5, 'unpaired_aux': 5}
# Drops that are neither a fault nor a loss of masks.
HARMLESS = ('surplus_rgb', 'surplus_aux', 'no_listener', 'disabled', 'lost_beside')
# Drops that another status than "pairing" tells: inference, inference, the state, registration.
TOLD_ELSEWHERE = ('replaced', 'engine', 'degraded', 'registration')

# States of degraded.Feed in which masks are worse than from a pair, or none come.
STATES = {
    'hold_aux': 'the aux camera is lost: each RGB image is segmented with the last aux image',
    'rgb_only': 'the aux camera is lost: masks are from RGB alone',
    'hold_rgb': 'the RGB camera is lost: each aux image is segmented with the last RGB image',
    'aux_only': 'the RGB camera is lost: masks are from aux alone',
    'stopped': 'a camera is lost, and degraded.aux_lost or degraded.rgb_lost is stop, or hold and '
               'degraded.max_hold is over: no masks until it is back',
}
FROZEN = ('the aux image does not change: the shutter (FFC) hangs, or the driver repeats a frame; '
          'restart the camera')
FROZEN_RGB = 'the RGB image does not change: its driver repeats a frame; restart the camera'
BROKEN = 'the engine cannot go on, nor can another one in this process: restart the node'
UNPAIRED = ('both cameras deliver, but no frames pair; compare their stamps, sync.max_skew and '
            'sync.aux_offset')
NO_LABEL_FITS = ('no label has the stamp of a mask; let labels carry the header stamp of their '
                 'RGB image, bit for bit')

POLICY_WORDS = {'BEST_EFFORT': 'best effort', 'TRANSIENT_LOCAL': 'transient local'}


def no_publisher(topic: str) -> str:
    """Return the warning that a topic has been without publisher for too long."""
    if topic == '/clock':
        return ('nobody publishes /clock; play the bag with --clock, or set use_sim_time to '
                'false.')
    return f'nobody publishes {topic}; start the camera, or remap the topic to its name.'


def incompatible_qos(topic: str, policy: str, publishing: bool, peer: str = '', offered: str = '',
                     requested: str = '') -> str:
    """Return the warning that a peer hears or says nothing because of one QoS policy.

    `publishing` tells that this node is the one that publishes; the peer's name and the two values
    are empty where the middleware does not say them.
    """
    offered, requested = (POLICY_WORDS.get(value, value.lower()) for value in (offered, requested))
    values = f' ({offered} is offered, {requested} requested)' if offered and requested else ''
    if publishing:
        return (f'{peer or "a subscriber"} cannot hear {topic}: its QoS {policy} asks for more '
                f'than this node offers{values}; let it subscribe with {policy} '
                f'{offered or "at its default"}.')
    return (f'{peer or "a publisher"} cannot be heard on {topic}: its QoS {policy} offers less '
            f'than this node asks for{values}; let it publish with {policy} '
            f'{requested or "at its default"}.')


def wrong_type(topic: str, publishing: bool, peer: str, theirs: str, ours: str) -> str:
    """Return the warning that a peer uses another message type on a topic."""
    if publishing:
        return (f'{peer} subscribes to {topic} as {theirs}, but it is {ours}: it gets nothing; '
                'remap it to another topic.')
    remedy = 'remap to a topic of images'
    if 'Image' in theirs:
        kind = 'compressed' if 'Compressed' in theirs else 'raw'
        remedy = f'set rgb.transport or aux.transport to {kind} and remap to match'
    return f'{peer} publishes {topic} as {theirs}, this node expects {ours}; {remedy}.'


def clock_disagrees(topic: str, behind_s: float, simulated: bool) -> str:
    """Return the warning that stamps lie `behind_s` before the node's clock (after, if < 0)."""
    found = f'the stamps of {topic} are {abs(behind_s):.1f} s in the '
    if behind_s < 0 and simulated:
        return (f'{found}future of /clock; let the bag alone publish /clock, or, with live cameras,'
                ' set use_sim_time to false.')
    if behind_s < 0:
        return (f'{found}future; synchronize the clocks of the camera and this machine (chrony, '
                'PTP).')
    if simulated:
        return (f'{found}past of /clock; look for a second publisher of /clock, or for a player '
                'that is slower than its clock.')
    return (f'{found}past and use_sim_time is false: replaying a bag? start with '
            'use_sim_time:=true and play with --clock; if the camera is live, synchronize the '
            'clocks (chrony, PTP).')


def clocks_apart(rgb_topic: str, aux_topic: str, aux_ahead_s: float) -> str:
    """Return the warning that the stamps of frames that arrive together are far apart."""
    order = 'ahead of' if aux_ahead_s > 0 else 'behind'
    return (f'the stamps of {aux_topic} are {abs(aux_ahead_s):.2f} s {order} those of {rgb_topic} '
            'that arrive with them: the cameras are on different clocks; synchronize them (chrony, '
            f'PTP), or, if it stays so, set sync.aux_offset to about {-aux_ahead_s:.3f}.')


def swapped(rgb_topic: str, rgb_encoding: str, aux_topic: str, aux_encoding: str) -> str:
    """Return the warning that the two image topics look exchanged."""
    return (f'{rgb_topic} holds {rgb_encoding} and {aux_topic} holds {aux_encoding}: the two '
            'cameras look swapped; exchange the remappings of the two topics.')
