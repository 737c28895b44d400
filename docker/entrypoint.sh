#!/bin/bash
# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
# Runs a command where ROS 2 and rgbx_seg are sourced; as the same process, so that signals reach it.
set -e
source "/opt/ros/$ROS_DISTRO/setup.bash"
source /opt/rgbx_seg/setup.bash
exec "$@"
