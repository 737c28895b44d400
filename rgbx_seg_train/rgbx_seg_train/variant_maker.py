# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Makes forms of a bundle's graphs, measures them, and exchanges the bundle as a whole.

A new bundle is written beside the old one and replaces it when all forms are done.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import BACKENDS, CLASSES, INPUTS, Model, Options, Size, graphs
from rgbx_seg_ros.manifest import (
    MANIFEST_FILE,
    Manifest,
    Variant,
    check_variant,
    load_bundle,
    replace_folder,
    save_manifest,
    sha256_of,
)
from rgbx_seg_ros.selection import why_not_default
from rgbx_seg_train import quantize
from rgbx_seg_train.agreement import Agreement, agree, fp32_answers, link_bank
from rgbx_seg_train.camera_graph import with_camera
from rgbx_seg_train.frames import Frame
from rgbx_seg_train.onnx_graph import serialize
from rgbx_seg_train.precision import lower

Graphs = Mapping[str, onnx.ModelProto]
Tell = Callable[[str], None]


class Form(NamedTuple):
    """A form that a bundle can have."""

    precision: str
    backends: tuple[str, ...]
    calibrated: bool = False


GPU = ('tensorrt', 'tensorrt_rtx')
FORMS = {
    'fp32': Form('fp32', (*GPU, 'onnxruntime_cuda', 'openvino', 'onnxruntime')),
    'fp16': Form('fp16', (*GPU, 'onnxruntime_cuda', 'torch')),
    'bf16': Form('bf16', GPU),
    'bf16_openvino': Form('bf16', ('openvino',)),
    'int8_tensorrt': Form('int8', GPU, True),
    'int8_openvino': Form('int8', ('openvino',), True),
    'int8_onnxruntime': Form('int8', ('onnxruntime',), True),
}
GROUPS = {'int8': tuple(name for name, form in FORMS.items() if form.precision == 'int8')}


@dataclass(frozen=True)
class Made:
    """A form that was added."""

    variant: Variant
    bytes: int
    kept: Mapping[str, int]  # operators left in fp32, by reason
    agreement: Agreement
    why_not_default: str  # '' if it may be one
    products_only: bool = False  # INT8 in convolutions too lost more


class Pairs(NamedTuple):
    """What forms are calibrated and measured on."""

    calibration: Sequence[Frame]  # at the network's size
    evaluation: Sequence[Frame]  # at the network's size
    at_camera: tuple[Sequence[Frame], Sequence[Frame]] | None = None  # both, at the camera's


def add_variants(bundle: Path, names: Sequence[str], pairs: Pairs, camera: Size | None = None,
                 remove: Sequence[str] = (), tell: Tell = print) -> list[Made]:
    """Add forms to a bundle, in place of those of the same name; return what they are.

    Raises:
        RgbxSegError: a name is unknown, or a form cannot be made; the bundle is then as it was.

    """
    bundle = Path(os.path.abspath(bundle))
    manifest = load_bundle(bundle)
    gone = {_folder_name(name, camera) for name in names} | _known(manifest, remove)
    place = Path(tempfile.mkdtemp(prefix=f'.{bundle.name}-', dir=bundle.parent))
    try:
        new, work = place / 'bundle', place / 'work'
        shutil.copytree(bundle, new, copy_function=_link, ignore=lambda folder, found: [
            name for name in found if Path(folder) == bundle and name in gone])
        variants = [own for own in manifest.variants if own.name not in gone]
        made = []
        maker = _Maker(new, manifest, pairs, camera, work) if names else None
        for name in names:
            assert maker is not None
            tell(f'{_folder_name(name, camera)} ...')
            made.append(maker.make(name))
        variants += [one.variant for one in made]
        (new / MANIFEST_FILE).unlink()  # it may be a link to the old one
        save_manifest(new, replace(manifest, variants=tuple(variants)))
        for variant in load_bundle(new).variants:
            check_variant(new, variant)
        replace_folder(new, bundle, ours=(MANIFEST_FILE,))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return made


def _known(manifest: Manifest, names: Sequence[str]) -> set[str]:
    have = {variant.name for variant in manifest.variants}
    for name in names:
        if name not in have:
            raise RgbxSegError(f'--remove {name}: the bundle {manifest.name} has no such form; '
                               f'expected one of {", ".join(sorted(have)) or "none"}.')
    return set(names)


def _folder_name(name: str, camera: Size | None) -> str:
    return f'{name}_{camera[1]}x{camera[0]}' if camera else name


def _link(source: str, target: str) -> None:
    """Copy a file, without its bytes where the file system can: nothing here writes into files."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


class _Maker:
    """Makes and measures forms inside of a new bundle."""

    def __init__(self, bundle: Path, manifest: Manifest, pairs: Pairs, camera: Size | None,
                 work: Path) -> None:
        self._bundle, self._pairs = bundle, pairs
        self._manifest = manifest = replace(manifest, variants=())
        self._camera, self._work = camera, work
        own = Model(bundle, manifest)
        self._loaded = {name: onnx.load(str(own.path(name))) for name in own.graphs()}
        self._feeds: dict[str, list[quantize.Feed]] = {}
        self._reference, self._frames = own, pairs.evaluation
        if camera:
            assert pairs.at_camera is not None
            self._own = own, fp32_answers(own, pairs.evaluation)
            graphs = self._at_camera(self._loaded)
            self._reference = replace(own, bundle=work, variant=self._write(
                work, 'fp32', {name: serialize(graph) for name, graph in graphs.items()}))
            self._frames = pairs.at_camera[1]
            link_bank(own, work)
        self._expected = fp32_answers(self._reference, self._frames)

    def make(self, name: str) -> Made:
        """Make one form, measure it, and return its record; of INT8 the best of what is tried."""
        tried: list[tuple[Made, dict[str, bytes]]] = []
        for kinds in quantize.SCOPES if FORMS[name].calibrated else quantize.SCOPES[:1]:
            files, kept = self._convert(name, kinds)
            made = self._measure(name, files, kept)
            tried.append((replace(made, products_only=kinds != quantize.SCOPES[0]), files))
            if not tried[-1][0].why_not_default:
                break
        best, files = max(tried, key=lambda one: (not one[0].why_not_default,
                                                  one[0].variant.labels))
        if best is not tried[-1][0]:
            self._write(self._bundle, name, files)
        return best

    def _measure(self, name: str, files: Mapping[str, bytes], kept: Mapping[str, int]) -> Made:
        variant = self._write(self._bundle, name, files)
        if self._camera and name == 'fp32':  # beside the network's size, not beside itself
            reference, expected = self._own
        else:
            reference, expected = self._reference, self._expected
        model = Model(self._bundle, self._manifest, variant, variant.precision)
        found = agree(model, reference, expected, self._frames, self._work)
        change = None if found.miou_change is None else round(found.miou_change, 6)
        variant = replace(variant, labels=round(found.labels, 6), miou_change=change,
                          pairs=found.pairs, measured=found.measured)
        size = sum(len(data) for data in files.values())
        return Made(variant, size, kept, found, why_not_default(variant))

    def _write(self, bundle: Path, name: str, files: Mapping[str, bytes]) -> Variant:
        """Write the files of a form into its folder; return its record, not measured yet."""
        form, folder = FORMS[name], bundle / _folder_name(name, self._camera)
        shutil.rmtree(folder, ignore_errors=True)  # of what was tried before
        if files:
            folder.mkdir(parents=True)
        for file, data in files.items():
            (folder / file).write_bytes(data)
        return Variant(folder.name, form.precision, form.backends,
                       {file: sha256_of(folder / file) for file in sorted(files)}, 1.0, None, 1,
                       self._camera)

    def _convert(self, name: str, kinds: Sequence[str]
                 ) -> tuple[dict[str, bytes], dict[str, int]]:
        """Return the files of a form, and how many operators stayed in fp32 for which reason."""
        if name == 'bf16_openvino' and not self._camera:
            return {}, {}
        if name == 'int8_openvino':
            return self._openvino(kinds), {}
        kept: dict[str, int] = {}
        made: dict[str, onnx.ModelProto] = {}
        for file, graph in self._loaded.items():
            if name in ('fp16', 'bf16'):
                lowered = lower(graph, name)
                graph = lowered.model
                for reason, count in lowered.kept.items():
                    kept[reason] = kept.get(reason, 0) + count
            elif name == 'int8_tensorrt':
                graph = quantize.for_tensorrt(graph, self._inputs(file), kinds)
            elif name == 'int8_onnxruntime':
                graph = quantize.for_onnxruntime(graph, self._inputs(file), kinds)
            made[file] = graph
        # After the precision: what resizes images stays in fp32, rounding as the host does.
        for graph in (made := self._at_camera(made)).values():
            onnx.checker.check_model(graph, full_check=True)
        return {file: serialize(graph) for file, graph in made.items()}, kept

    def _openvino(self, kinds: Sequence[str]) -> dict[str, bytes]:
        files = {}
        for file, graph in self._at_camera(self._loaded).items():
            with tempfile.TemporaryDirectory(dir=self._work.parent) as folder:
                stem = Path(file).stem
                quantize.for_openvino(graph, self._inputs(file, bool(self._camera)), Path(folder),
                                      stem, kinds)
                files |= {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
        return files

    def _at_camera(self, graphs: Graphs) -> dict[str, onnx.ModelProto]:
        if not self._camera:
            return dict(graphs)
        network = (self._manifest.height, self._manifest.width)
        return {file: with_camera(graph, self._camera, network) for file, graph in graphs.items()}

    def _inputs(self, file: str, at_camera: bool = False) -> list[quantize.Feed]:
        """Return the calibration pairs as inputs of a graph; embeddings are those of fp32."""
        frames = self._pairs.calibration
        model = Model(self._bundle, self._manifest)
        if at_camera and self._pairs.at_camera:
            frames, model = self._pairs.at_camera[0], self._reference
        feeds: list[dict[str, Any]] = [dict(zip(INPUTS, frame[:2], strict=True))
                                       for frame in frames]
        wanted, own = graphs(self._manifest)[file].inputs, self._manifest.scene
        if own is not None and own.tensors[0] in wanted:
            engine = BACKENDS['onnxruntime'](model, Options())
            for feed in feeds:
                scene = engine.embed(*feed.values())
                feed |= {name: value.copy() for name, value in zip(own.tensors, scene,
                                                                   strict=True)}
            engine.close()
        if CLASSES in wanted:
            rows = model.rows()
            feeds = [{**feed, CLASSES: rows} for feed in feeds]
        return feeds
