# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The kinds of operators that a graph uses, as finely as a parser of another library tells them.

`python operators.py FILE.onnx ...` prints what full_size_operators.json holds of a model.
"""

from __future__ import annotations

import json
import sys

import onnx
from onnx import helper

# Attributes whose values a library may know one of, and not another.
TELLING = ('mode', 'coordinate_transformation_mode', 'approximate', 'ceil_mode')


def kinds(model: onnx.ModelProto) -> list[str]:
    """Return each kind once: "Resize linear half_pixel", "Conv grouped strided"."""
    return sorted({_kind(node) for node in model.graph.node})


def _kind(node: onnx.NodeProto) -> str:
    values = {own.name: helper.get_attribute_value(own) for own in node.attribute}
    words = [node.op_type]
    for name in TELLING:
        value = values.get(name)
        if value:
            words.append(value.decode() if isinstance(value, bytes) else f'{name}={value}')
    if node.op_type in ('Conv', 'MaxPool'):
        words += ['grouped'] * (values.get('group', 1) > 1)
        words += ['strided'] * (max(values.get('strides', [1])) > 1)
        words += ['dilated'] * (max(values.get('dilations', [1])) > 1)
    return ' '.join(words)


if __name__ == '__main__':
    found = {kind for path in sys.argv[1:] for kind in kinds(onnx.load(path))}
    print(json.dumps(sorted(found), indent=1))
