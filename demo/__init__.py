# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m demo`: a bag through the real node, over DDS, into a report with pictures."""
