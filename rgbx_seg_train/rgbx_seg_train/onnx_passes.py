# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A graph phrased anew so that processors run it faster: the same function, plain operators.

`rgbx_export` applies the passes to every model. `python -m rgbx_seg_train.onnx_passes BUNDLE`
applies them to a bundle that was exported before.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.engine import OUTPUTS
from rgbx_seg_ros.manifest import (
    BANK_FILE,
    CHECKPOINT_FILE,
    MODEL_FILE,
    SCENE_FILE,
    load_bundle,
    save_bundle,
)
from rgbx_seg_train.graph_editor import Editor
from rgbx_seg_train.onnx_layout import keep_channels_last
from rgbx_seg_train.onnx_products import cut_weights, join_contexts, unwrap_products

LOGITS = 'logits'  # the name that the tensor of the logits keeps inside `model.onnx`
SMALL = 64  # rows of logits up to which a product enlarges them faster than Resize does


def quicken(model: onnx.ModelProto) -> None:
    """Phrase a graph of a bundle anew, in place; a graph that is phrased so already stays."""
    editor = Editor(model)
    _drop_copies(editor)
    unwrap_products(editor)
    cut_weights(editor)
    join_contexts(editor)
    keep_channels_last(editor)
    _answer_by_planes(editor)
    editor.write()


def _answer_by_planes(editor: Editor) -> None:
    """Find label and confidence class by class, on whole images, in place of ArgMax and Reduce.

    Runtimes reduce over channels several times slower than they compare two images, and
    OpenVINO's ArgMax is a sort. The first of equal classes still wins; exp(max - logsumexp) is
    1 / sum(exp(logit - max)). Where the number of classes is free there are no planes to name, and
    that alone is done.
    """
    arg = editor.only('ArgMax')
    if arg is None or not {arg.input[0], *OUTPUTS} <= editor.makers.keys():
        return
    logits = arg.input[0]
    _, classes, height, width = editor.shapes[logits]
    behind = editor.behind(logits)
    binary = any(node.op_type == 'Sigmoid' for node in behind)
    editor.drop(behind)
    editor.rename(logits, LOGITS)
    apart = _enlarge_by_products(editor)
    answer = _Planes(editor, classes, (height, width), binary)
    answer.write(apart) if classes else answer.write_free()


class _Planes:
    """Writes what follows the logits, all of it under names that begin with theirs.

    By the names it is known that none of it bears less than fp32.
    """

    def __init__(self, editor: Editor, classes: int, size: tuple[int, int], binary: bool) -> None:
        self._editor, self._classes, self._size, self._count = editor, classes, size, 0
        self._binary = binary  # the confidence is that of the best class by itself

    def write(self, apart: bool) -> None:
        """Write label and confidence; `apart`: the classes of the logits lie apart in memory."""
        put, constant = self._put, self._editor.constant
        planes = self._split(apart)
        best, label = planes[0], constant(np.zeros((1, 1, 1, 1), np.float32))
        for number, plane in enumerate(planes[1:], 1):
            label = put('Where', put('Greater', plane, best), constant(np.float32(number)), label)
            best = put('Max', best, plane)
        total = ''
        for plane in () if self._binary else planes:
            share = put('Exp', put('Sub', plane, best))
            total = put('Add', total, share) if total else share
        if len(planes) == 1:
            label = put('Mul', best, constant(np.float32(0.0)))
        self._answer(label, best, total)

    def write_free(self) -> None:
        """Write label and confidence of any number of classes."""
        put, axis = self._put, self._editor.integers([1])
        best = put('ReduceMax', LOGITS, axis)
        label = put('Cast', put('ArgMax', LOGITS, axis=1), to=TensorProto.FLOAT)
        total = '' if self._binary else put(
            'ReduceSum', put('Exp', put('Sub', LOGITS, best)), axis)
        self._answer(label, best, total)

    def _answer(self, label: str, best: str, total: str) -> None:
        """Write the outputs; `total` is the sum of exp(logit - best) over all classes."""
        put, constant = self._put, self._editor.constant
        most = constant(np.float32(255.0))
        share = put('Mul', put('Sigmoid', best), most) if self._binary else put('Div', most, total)
        rounded = put('Add', share, constant(np.float32(0.5)))
        # Through float: TensorRT 10.3 casts to uint8 only from floating point.
        for name, image in zip(OUTPUTS, (label, rounded), strict=True):
            mask = put('Reshape', image, self._editor.integers([1, *self._size]))
            self._editor.put('Cast', [mask], name, to=TensorProto.UINT8)

    def _split(self, apart: bool) -> list[str]:
        """Return an image (1, 1, H, W) of each class."""
        images, axis = LOGITS, 1
        if not apart:  # side by side, they would be copied one by one
            shape = self._editor.integers([self._classes, 1, *self._size])
            images, axis = self._put('Reshape', LOGITS, shape), 0
        if self._classes == 1:
            return [images]
        names = [f'{LOGITS}_of_{number}' for number in range(self._classes)]
        self._editor.nodes.append(helper.make_node('Split', [images], names, axis=axis,
                                                   num_outputs=self._classes))
        return names

    def _put(self, kind: str, *inputs: str, **attributes: int) -> str:
        self._count += 1
        return self._editor.put(kind, inputs, f'{LOGITS}_{self._count}', **attributes)


def _enlarge_by_products(editor: Editor) -> bool:
    """Enlarge small logits by products with constant matrices; tell whether they are."""
    resize = editor.makers[LOGITS]
    attributes = {a.name: helper.get_attribute_value(a) for a in resize.attribute}
    if resize.op_type != 'Resize' or attributes.get('mode') != b'linear' or attributes.get(
            'coordinate_transformation_mode', b'half_pixel') != b'half_pixel':
        return False
    (*_, low, narrow), (*_, height, width) = (editor.shapes[name] for name in (
        resize.input[0], LOGITS))
    # 0 is a length that shape inference could not tell.
    if not 0 < low <= SMALL or height < low or not 0 < narrow <= width:
        return False
    editor.drop([resize])
    columns = editor.constant(np.ascontiguousarray(enlarging_matrix(narrow, width).T))
    wide = editor.put('MatMul', [resize.input[0], columns], f'{LOGITS}_wide')
    editor.put('MatMul', [editor.constant(enlarging_matrix(low, height)), wide], LOGITS)
    return True


def enlarging_matrix(size: int, to: int) -> NDArray[np.float32]:
    """Return the float32 (to, size) matrix of a bilinear Resize of one axis, by half pixels."""
    at = np.clip((np.arange(to) + 0.5) * size / to - 0.5, 0, size - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size))).astype(np.float32)


def _drop_copies(editor: Editor) -> None:
    """Take out each Resize to its own size."""
    for node in [node for node in editor.nodes if node.op_type == 'Resize']:
        if editor.shapes[node.input[0]] == editor.shapes[node.output[0]]:
            editor.drop([node])
            editor.put('Identity', [node.input[0]], node.output[0])
    editor.tidy()


def _main() -> None:
    parser = Arguments(prog='python -m rgbx_seg_train.onnx_passes',
                       description='Phrase the graphs of a bundle as `rgbx_export` does today.')
    parser.add_argument('bundle', type=Path, help='folder of the bundle; it is replaced')
    bundle = parser.parse_args().bundle
    manifest = load_bundle(bundle)
    if manifest.variants:
        raise RgbxSegError(f'bundle {bundle}: it has variants, which are made of its graphs; '
                           'expected none: export it again, then run `rgbx_variants`.')
    files = {}
    for name in (MODEL_FILE, SCENE_FILE):
        if (bundle / name).is_file():
            model = onnx.load(bundle / name)
            quicken(model)
            files[name] = model.SerializeToString(deterministic=True)
    checkpoint = bundle / CHECKPOINT_FILE if manifest.checkpoint_sha256 else None
    bank = bundle / BANK_FILE if manifest.vocabulary else None
    save_bundle(bundle, files[MODEL_FILE], manifest, files.get(SCENE_FILE), checkpoint, bank)


def main() -> int:
    """Run the command."""
    return run_command(_main)


if __name__ == '__main__':
    raise SystemExit(main())
