# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
# The node on ROS 2 Jazzy, for x86-64 and ARM, with or without a desktop GPU. From the repository's root:
#   docker build -f docker/jazzy.Dockerfile -t rgbx_seg:jazzy .
ARG ROS_DISTRO=jazzy

FROM ros:${ROS_DISTRO}-ros-base AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /ws
COPY package.xml src/rgbx_seg/
RUN apt-get update && rosdep update --rosdistro "$ROS_DISTRO" \
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

FROM ros:${ROS_DISTRO}-ros-core
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# What runs the model: openvino, onnxruntime, onnxruntime-gpu, tensorrt or tensorrt-rtx; and rosbags.
ARG LIBRARIES="openvino rosbags"
COPY --from=build /ws/needed.apt /tmp/
RUN apt-get update && xargs -a /tmp/needed.apt apt-get install -y --no-install-recommends python3-pip \
 && rm -rf /var/lib/apt/lists/* /tmp/needed.apt
# ROS starts its programs by the Python of apt, which looks into no virtual environment. As root, pip
# writes to /usr/local, where nothing is apt's: this is what the flag agrees to. OpenCV and ROS's
# messages are compiled for NumPy 1, which apt has brought.
RUN python3 -m pip install --no-cache-dir --break-system-packages 'numpy<2' $LIBRARIES
COPY --from=build /opt/rgbx_seg /opt/rgbx_seg
COPY docker/entrypoint.sh /entrypoint.sh
RUN useradd --create-home rgbx && install -d -o rgbx -g rgbx /home/rgbx/.cache
USER rgbx
WORKDIR /home/rgbx
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENTRYPOINT ["/entrypoint.sh"]
CMD ["ros2", "launch", "rgbx_seg", "segment.launch.py"]
