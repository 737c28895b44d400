# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A corner of DDS in which a program and the node it starts meet nobody else."""

from __future__ import annotations

import os
import random
import socket

# By default Fast DDS sends a 640x480 image as UDP fragments and loses about half of them. Bare, for
# with sizes asked for it registers no transport at all where the kernel allows less, as most do
# (net.core.wmem_max 212992); and 1920x1080 images arrive without loss this way only.
LARGE_IMAGES = 'LARGE_DATA'
TRANSPORT_VARIABLES = ('FASTDDS_BUILTIN_TRANSPORTS', 'FASTDDS_DEFAULT_PROFILES_FILE',
                       'FASTRTPS_DEFAULT_PROFILES_FILE')


def set_private_middleware() -> None:
    """Choose a domain of its own and a transport fit for images; before rclpy.init."""
    os.environ['ROS_DOMAIN_ID'] = str(free_domain())
    # Confined to this machine by either of these, rmw_fastrtps replaces the transport chosen below
    # by its own, which loses most images (measured: 105 of 175). So the domain alone keeps apart.
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'SUBNET'
    for name in ('ROS_LOCALHOST_ONLY', 'ROS_STATIC_PEERS'):
        os.environ.pop(name, None)
    if loses_images():
        os.environ['FASTDDS_BUILTIN_TRANSPORTS'] = LARGE_IMAGES


def loses_images() -> bool:
    """Return whether the transport is one that loses large images, because nobody chose another."""
    rmw = os.environ.get('RMW_IMPLEMENTATION') or 'rmw_fastrtps_cpp'
    chosen = any(os.environ.get(name) for name in TRANSPORT_VARIABLES)
    return rmw.startswith('rmw_fastrtps') and not chosen


def free_domain() -> int:
    """Return a random domain id that nobody on this machine uses."""
    for domain in random.sample(range(1, 100), 99):
        # Every participant listens to its domain's discovery port, which DDS numbers so.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(('', 7400 + 250 * domain))
            except OSError:
                continue
            return domain
    return 0
