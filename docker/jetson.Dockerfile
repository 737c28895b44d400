# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
# The node on Jetson Orin with JetPack 6 (L4T r36, Ubuntu 22.04): ROS 2 Humble, TensorRT 10.3. On the
# Jetson, from the repository's root:
#   docker build -f docker/jetson.Dockerfile -t rgbx_seg:jetson .
#   docker run --runtime nvidia ...
ARG L4T=r36.4.0

FROM nvcr.io/nvidia/l4t-jetpack:${L4T} AS ros
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV ROS_DISTRO=humble LANG=C.UTF-8 LC_ALL=C.UTF-8
ARG DEBIAN_FRONTEND=noninteractive
# NVIDIA's own OpenCV has another layout and other names than Ubuntu's python3-opencv, and is newer.
RUN printf 'Package: *opencv*\nPin: origin repo.download.nvidia.com\nPin-Priority: -1\n' \
    > /etc/apt/preferences.d/opencv-of-ubuntu \
 && apt-get update && apt-get install -y --no-install-recommends ca-certificates curl \
 && curl -sSfL https://raw.githubusercontent.com/ros/rosdistro/master/ros.key \
    -o /usr/share/keyrings/ros-archive-keyring.gpg \
 && echo "deb [arch=arm64 signed-by=/usr/share/keyrings/ros-archive-keyring.gpg]" \
    "http://packages.ros.org/ros2/ubuntu jammy main" > /etc/apt/sources.list.d/ros2.list \
 && apt-get update && apt-get install -y --no-install-recommends ros-humble-ros-core \
 && rm -rf /var/lib/apt/lists/*

FROM ros AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /ws
RUN apt-get update && apt-get install -y --no-install-recommends \
    build-essential python3-colcon-common-extensions python3-rosdep \
 && rosdep init && rosdep update --rosdistro "$ROS_DISTRO" && rm -rf /var/lib/apt/lists/*
COPY package.xml src/rgbx_seg/
RUN apt-get update \
 && rosdep install --from-paths src --ignore-src -y -t buildtool -t build \
 && rosdep keys --from-paths src --ignore-src -t exec | xargs rosdep resolve | grep -v '^#' > needed.apt \
 && rm -rf /var/lib/apt/lists/*
COPY CMakeLists.txt setup.cfg src/rgbx_seg/
COPY msg src/rgbx_seg/msg
COPY rgbx_seg_ros src/rgbx_seg/rgbx_seg_ros
COPY config src/rgbx_seg/config
COPY launch src/rgbx_seg/launch
COPY sample src/rgbx_seg/sample
RUN source "/opt/ros/$ROS_DISTRO/setup.bash" \
 && colcon build --merge-install --install-base /opt/rgbx_seg --cmake-args -DBUILD_TESTING=OFF

FROM ros
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ARG DEBIAN_FRONTEND=noninteractive
ARG LIBRARIES="rosbags"
COPY --from=build /ws/needed.apt /tmp/
# TensorRT's Python module, of the version that the base image has: both come from its apt source.
RUN apt-get update && xargs -a /tmp/needed.apt apt-get install -y --no-install-recommends \
    python3-libnvinfer python3-pip \
 && rm -rf /var/lib/apt/lists/* /tmp/needed.apt
# OpenCV and ROS's messages are compiled for NumPy 1, which apt has brought.
RUN python3 -m pip install --no-cache-dir 'numpy<2' $LIBRARIES
COPY --from=build /opt/rgbx_seg /opt/rgbx_seg
COPY docker/entrypoint.sh /entrypoint.sh
# The group that owns the GPU's devices on Jetson.
RUN useradd --create-home --groups video rgbx && install -d -o rgbx -g rgbx /home/rgbx/.cache
USER rgbx
WORKDIR /home/rgbx
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENTRYPOINT ["/entrypoint.sh"]
CMD ["ros2", "launch", "rgbx_seg", "segment.launch.py"]
