# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The bundle: a folder with `model.onnx` and the `manifest.yaml` that says how to use it.

A network that also reads embeddings of the whole scene comes in two graphs: `scene.onnx` makes the
embeddings, every few frames, and `model.onnx` takes them with each pair of images. Folders in the
bundle may hold further forms of the graphs, its variants: in a lower precision, or for images of a
camera's size. `model.safetensors`, if it is there, is the checkpoint, for backend torch;
`classes.npz`, if classes may be chosen at run time, the bank of those to choose from.
"""

from __future__ import annotations

import hashlib
import os
import re
import reprlib
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from rgbx_seg_ros import RgbxSegError

FORMAT = 1
MODEL_FILE = 'model.onnx'
SCENE_FILE = 'scene.onnx'
MANIFEST_FILE = 'manifest.yaml'
CHECKPOINT_FILE = 'model.safetensors'
BANK_FILE = 'classes.npz'
UNLABELED = 255
MODALITIES = ('thermal', 'depth', 'event', 'polarization', 'lightfield')
RANGES = ('fixed', 'percentile')
PRECISIONS = ('fp32', 'fp16', 'bf16', 'int8')
MAX_SIDE = 8192  # pixels; a manifest is bounded before anything of its size is allocated
MAX_MANIFEST_BYTES = 1 << 20
MAX_SCENE_WIDTH = 65536
MAX_SCENE_TENSORS = 8
MAX_TEXT_WIDTH = 65536
RESERVED = ('rgb', 'aux', 'classes', 'label', 'confidence', 'logits')  # tensors of model.onnx
MAX_VARIANTS = 64
MAX_SCENE_EVERY = 100_000  # frames: nearly an hour at 30 Hz


@dataclass(frozen=True)
class ClassInfo:
    """One class: the id in the mask, its name, and its RGB color."""

    id: int
    name: str
    color: tuple[int, int, int]

    def __post_init__(self) -> None:
        """Refuse an id, name or color that a mask or a palette cannot hold."""
        _expect(_is_int(self.id, 0, UNLABELED - 1), 'id', self.id, 'an integer 0..254')
        _expect(isinstance(self.name, str) and self.name != '', 'name', self.name, 'a name')
        good = len(self.color) == 3 and all(_is_int(c, 0, 255) for c in self.color)
        _expect(good, 'color', self.color, 'three integers 0..255 (red, green, blue)')


@dataclass(frozen=True)
class AuxEncoding:
    """How raw aux values become the uint8 that the network was trained on.

    Integers are counts: value = raw * scale + offset, in `unit`; floats are in `unit` already
    (REP-118, which states it for depth). Then `fixed` maps low..high to 0..255, and
    `percentile` maps the percentiles low..high of the frame, stretched over at least `min_span`.
    uint8 images are taken as already normalized by the camera (AGC) and pass unchanged.
    """

    channels: int
    range: str
    low: float
    high: float
    min_span: float = 0.0
    unit: str = 'counts'
    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values that cannot normalize an image."""
        good = _is_int(self.channels, 1, 3) and self.channels != 2
        _expect(good, 'channels', self.channels, '1 or 3')
        _expect(self.range in RANGES, 'range', self.range, ' or '.join(RANGES))
        for name in ('low', 'high', 'min_span', 'scale', 'offset'):
            value = getattr(self, name)
            _expect(_is_finite(value), name, value, 'a finite number')
        _expect(self.low < self.high, 'low', self.low, f'a number below high ({self.high})')
        _expect(self.min_span >= 0, 'min_span', self.min_span, 'a number of at least 0')
        _expect(self.scale > 0, 'scale', self.scale, 'a number above 0')
        _expect(isinstance(self.unit, str), 'unit', self.unit, 'a text')
        if self.range == 'percentile':
            good = self.low >= 0 and self.high <= 100
            _expect(good, 'low, high', (self.low, self.high), 'percentiles 0..100')


@dataclass(frozen=True)
class SceneGraph:
    """The second graph of a bundle: what it embeds changes slower than the frames come."""

    onnx_sha256: str  # of scene.onnx; '' until the bundle is saved
    width: int  # of each embedding
    every: int  # frames from one run to the next; 1 is every frame
    tensors: tuple[str, ...] = ('s_rgb', 's_aux')  # outputs of scene.onnx, inputs of model.onnx

    def __post_init__(self) -> None:
        """Refuse what no bundle holds."""
        _expect(_matches('([0-9a-f]{64})?', self.onnx_sha256), 'scene.onnx_sha256',
                self.onnx_sha256, '64 hexadecimal digits')
        for name, most in (('width', MAX_SCENE_WIDTH), ('every', MAX_SCENE_EVERY)):
            value = getattr(self, name)
            _expect(_is_int(value, 1, most), f'scene.{name}', value, f'an integer 1..{most}')
        good = 1 <= len(self.tensors) <= MAX_SCENE_TENSORS and all(
            _matches('[a-z][a-z0-9_]{0,31}', name) and name not in RESERVED
            for name in self.tensors) and len(set(self.tensors)) == len(self.tensors)
        _expect(good, 'scene.tensors', list(self.tensors),
                f'1..{MAX_SCENE_TENSORS} different names, such as s_rgb')


@dataclass(frozen=True)
class Vocabulary:
    """What classes may be while a robot runs: rows that `model.onnx` takes as input `classes`."""

    width: int  # of a row, the embedding of one class
    most: int  # classes at a time
    sha256: str  # of classes.npz; '' until the bundle is saved

    def __post_init__(self) -> None:
        """Refuse what no bundle holds, and more classes than a mask has ids."""
        for name, most in (('width', MAX_TEXT_WIDTH), ('most', UNLABELED)):
            value = getattr(self, name)
            _expect(_is_int(value, 1, most), f'vocabulary.{name}', value, f'an integer 1..{most}')
        _expect(_matches('([0-9a-f]{64})?', self.sha256), 'vocabulary.sha256', self.sha256,
                '64 hexadecimal digits')


@dataclass(frozen=True)
class Variant:
    """Another form of a bundle's graphs, in a folder of its own, and how far it agrees with them.

    `files` are those of the folder, name -> SHA-256. Without any the variant is a way to run the
    bundle's own graphs: a CPU that computes them in bf16.
    """

    name: str  # of the folder in the bundle
    precision: str
    backends: tuple[str, ...]  # that may run it: what suits one library can be wrong in another
    files: Mapping[str, str]
    labels: float  # share of labels that are those of fp32 at the same input
    miou_change: float | None  # mIoU minus that of fp32, in 0..1; None: there was no ground truth
    pairs: int  # of images that both were measured on
    rgb_size: tuple[int, int] | None = None  # (H, W) of rgb, label, confidence; None: network's
    aux_size: tuple[int, int] | None = None  # (h, w) of aux; None: the network's
    measured: str = ''  # with what: the library, or what computed as a GPU would

    def __post_init__(self) -> None:
        """Refuse what no engine can be opened by, and names that lead out of the bundle."""
        where = f'variants.{self.name}'
        for name in (self.name, *self.files):
            good = _matches(r'[a-z0-9][a-z0-9_.]{0,63}', name)
            _expect(good, 'variants.name', name, 'lower-case letters, digits, _ and dots')
        _expect(self.precision in PRECISIONS, f'{where}.precision', self.precision,
                ', '.join(PRECISIONS))
        good = bool(self.backends) and all(isinstance(name, str) for name in self.backends)
        _expect(good, f'{where}.backends', self.backends, 'names of backends')
        for name, sha256 in self.files.items():
            _expect(_matches('[0-9a-f]{64}', sha256), f'{where}.files.{name}', sha256,
                    '64 hexadecimal digits')
        good = _is_finite(self.labels) and 0 <= self.labels <= 1
        _expect(good, f'{where}.labels', self.labels, 'a number 0..1')
        good = self.miou_change is None or (_is_finite(self.miou_change)
                                            and -1 <= self.miou_change <= 1)
        _expect(good, f'{where}.miou_change', self.miou_change, 'a number -1..1, or null')
        _expect(_is_int(self.pairs, 1, 10**9), f'{where}.pairs', self.pairs, 'at least 1')
        _expect(isinstance(self.measured, str), f'{where}.measured', self.measured, 'a text')
        for key in ('rgb_size', 'aux_size'):
            size = getattr(self, key)
            good = size is None or (len(size) == 2 and all(_is_int(n, 1, MAX_SIDE) for n in size))
            _expect(good, f'{where}.{key}', size, f'[height, width], each 1..{MAX_SIDE}')


@dataclass(frozen=True)
class Manifest:
    """What `manifest.yaml` holds: everything a robot must know to run `model.onnx`."""

    format: int
    family: str
    name: str
    modality: str
    height: int
    width: int
    aux: AuxEncoding
    classes: tuple[ClassInfo, ...]
    onnx_sha256: str
    training_data: str
    data_license: str
    model_license: str
    scores: Mapping[str, float]
    aux_dropout: float = 0.0  # share of training samples whose aux was zero, as of a lost camera
    scene: SceneGraph | None = None  # None: the bundle is one graph
    variants: tuple[Variant, ...] = ()
    checkpoint_sha256: str = ''  # of model.safetensors; '': there is none
    scored_on: str = ''  # where `scores` come from, as rgbx_export measured them; '': not by it
    vocabulary: Vocabulary | None = None  # None: the classes are those of `classes` for ever

    def __post_init__(self) -> None:
        """Refuse what this version cannot run."""
        _expect(_is_int(self.format, FORMAT, FORMAT), 'format', self.format, f'{FORMAT}')
        _expect(self.modality in MODALITIES, 'modality', self.modality, ', '.join(MODALITIES))
        for name in ('height', 'width'):
            value = getattr(self, name)
            _expect(_is_int(value, 1, MAX_SIDE), name, value, f'an integer 1..{MAX_SIDE}')
        texts = ('family', 'name', 'onnx_sha256', 'training_data', 'data_license', 'model_license',
                 'checkpoint_sha256', 'scored_on')
        for name in texts:
            value = getattr(self, name)
            _expect(isinstance(value, str), name, value, 'a text')
        _expect(len(self.classes) > 0, 'classes', 'none', 'at least one class')
        for attribute in ('id', 'name', 'color'):
            seen = [getattr(info, attribute) for info in self.classes]
            _expect(len(set(seen)) == len(seen), f'classes.{attribute}', seen, 'no value twice')
        if self.vocabulary is not None:
            ids, most = [info.id for info in self.classes], self.vocabulary.most
            _expect(ids == list(range(len(ids))), 'classes.id', ids,
                    '0, 1, 2 ... in this order where there is a vocabulary')
            _expect(len(ids) <= most, 'classes', f'{len(ids)} of them',
                    f'at most vocabulary.most ({most})')
        _expect(len(self.variants) <= MAX_VARIANTS, 'variants', f'{len(self.variants)} of them',
                f'at most {MAX_VARIANTS}')
        names = [variant.name for variant in self.variants]
        _expect(len(set(names)) == len(names), 'variants.name', names, 'no value twice')
        good = _is_finite(self.aux_dropout) and 0 <= self.aux_dropout <= 1
        _expect(good, 'aux_dropout', self.aux_dropout, 'a number 0..1')
        for key, value in self.scores.items():
            _expect(_is_finite(value), f'scores.{key}', value, 'a finite number')

    @property
    def n_classes(self) -> int:
        """Return the length of an array indexed by class id."""
        return max(info.id for info in self.classes) + 1


def load_bundle(folder: Path) -> Manifest:
    """Return the validated manifest of a bundle whose ONNX files have the SHA-256 it names."""
    folder = Path(folder)
    if not folder.is_dir():
        raise RgbxSegError(f'bundle {folder}: no such folder; expected one with {MODEL_FILE} and '
                           f'{MANIFEST_FILE}, as `rgbx_export` writes it.')
    for name in (MANIFEST_FILE, MODEL_FILE):
        _expect_file(folder, name)
    try:
        manifest = _parse(_read_yaml(folder / MANIFEST_FILE))
    except RgbxSegError as error:
        raise RgbxSegError(f'{folder / MANIFEST_FILE}: {error}') from None
    _expect_sha256(folder / MODEL_FILE, manifest.onnx_sha256)
    if manifest.scene is not None:
        _expect_file(folder, SCENE_FILE)
        _expect_sha256(folder / SCENE_FILE, manifest.scene.onnx_sha256)
    if manifest.vocabulary is not None:
        _expect_file(folder, BANK_FILE)
        _expect_sha256(folder / BANK_FILE, manifest.vocabulary.sha256)
    return manifest


def check_variant(folder: Path, variant: Variant) -> None:
    """Raise if files of a variant are missing or are not those that the manifest names."""
    for name, sha256 in variant.files.items():
        _expect_file(Path(folder), f'{variant.name}/{name}')
        _expect_sha256(Path(folder) / variant.name / name, sha256)


def check_checkpoint(folder: Path, manifest: Manifest) -> Path:
    """Return the path of a bundle's checkpoint; raise if it is missing or another than it names."""
    _expect_file(Path(folder), CHECKPOINT_FILE)
    _expect_sha256(Path(folder) / CHECKPOINT_FILE, manifest.checkpoint_sha256)
    return Path(folder) / CHECKPOINT_FILE


def _expect_file(folder: Path, name: str) -> None:
    if not (folder / name).is_file():
        raise RgbxSegError(f'bundle {folder}: {name} is missing; copy the whole bundle again '
                           'or export it with `rgbx_export`.')


def _expect_sha256(path: Path, expected: str) -> None:
    found = sha256_of(path)
    if found != expected:
        raise RgbxSegError(
            f'{path}: SHA-256 is {found[:12]}…, but the manifest expects {expected[:12]}…; the '
            'file is damaged or was exchanged: copy or export the bundle again.')


def save_bundle(folder: Path, onnx_bytes: bytes, manifest: Manifest,
                scene_bytes: bytes | None = None, checkpoint: Path | None = None,
                bank: Path | None = None) -> None:
    """Write a bundle folder whole or not at all, with the SHA-256 of its files filled in.

    `scene_bytes` is the graph that `manifest.scene` tells of: both are there, or neither; so it is
    with `bank`, the file of classes, and `manifest.vocabulary`. Copies of the files `checkpoint`
    and `bank` become the bundle's; they are never in memory as a whole.
    """
    folder = Path(folder)
    files = {MODEL_FILE: onnx_bytes}
    manifest = replace(manifest, onnx_sha256=hashlib.sha256(onnx_bytes).hexdigest())
    if (manifest.scene is None) != (scene_bytes is None):
        raise RgbxSegError(f'bundle {folder}: {SCENE_FILE} is {"not " * (scene_bytes is None)}'
                           f'given, but manifest.scene is {manifest.scene}; expected both or '
                           'neither.')
    if (manifest.vocabulary is None) != (bank is None):
        raise RgbxSegError(f'bundle {folder}: {BANK_FILE} is {"not " * (bank is None)}given, but '
                           f'manifest.vocabulary is {manifest.vocabulary}; expected both or '
                           'neither.')
    if manifest.scene is not None and scene_bytes is not None:
        files[SCENE_FILE] = scene_bytes
        digest = hashlib.sha256(scene_bytes).hexdigest()
        manifest = replace(manifest, scene=replace(manifest.scene, onnx_sha256=digest))
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f'.{folder.name}-', dir=folder.parent))
    try:
        temporary.chmod(0o755)
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        digest = _copy(checkpoint, temporary / CHECKPOINT_FILE) if checkpoint else ''
        manifest = replace(manifest, checkpoint_sha256=digest)
        if manifest.vocabulary is not None and bank is not None:
            digest = _copy(bank, temporary / BANK_FILE)
            manifest = replace(manifest, vocabulary=replace(manifest.vocabulary, sha256=digest))
        save_manifest(temporary, manifest)
        replace_folder(temporary, folder, ours=(MANIFEST_FILE,))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a bundle that is being made in `folder`."""
    (folder / MANIFEST_FILE).write_text(_to_yaml(manifest), encoding='utf-8')


def _copy(source: Path, target: Path) -> str:
    """Copy a file and return the SHA-256 of what was written."""
    digest = hashlib.sha256()
    with source.open('rb') as given, target.open('wb') as own:
        while block := given.read(1 << 20):
            own.write(block)
            digest.update(block)
    return digest.hexdigest()


def replace_folder(new: Path, target: Path, ours: tuple[str, ...]) -> None:
    """Move folder `new` to `target`; an old `target` is replaced if it holds the files `ours`.

    Raises:
        RgbxSegError: `target` exists and is neither empty nor one of our own kind.

    """
    if not target.exists():
        os.replace(new, target)
        return
    ours_already = target.is_dir() and all((target / name).exists() for name in ours)
    if not ours_already and not (target.is_dir() and not any(target.iterdir())):
        raise RgbxSegError(f'{target} exists and is not what would be replaced (no '
                           f'{", ".join(ours)} in it); remove it or choose another place.')
    retired = target.with_name(f'.{target.name}-old-{os.getpid()}')
    os.replace(target, retired)
    try:
        os.replace(new, target)
    except OSError:
        os.replace(retired, target)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_yaml(path: Path) -> Any:
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise RgbxSegError(f'{path.stat().st_size} bytes; expected at most {MAX_MANIFEST_BYTES}.')
    try:
        return yaml.safe_load(path.read_text(encoding='utf-8'))
    except UnicodeDecodeError:
        raise RgbxSegError('not UTF-8 text; export the bundle again.') from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # such as a 13th month, [[[[…
        mark = getattr(error, 'problem_mark', None)
        line = f' in line {mark.line + 1}' if mark else ''
        raise RgbxSegError(f'not valid YAML{line}; export the bundle again.') from None


def _parse(data: Any) -> Manifest:
    if isinstance(data, dict) and _is_int(data.get('format'), FORMAT + 1, 10**9):
        raise RgbxSegError(f'format is {data["format"]}; expected {FORMAT}: it is of a newer '
                           'rgbx_seg; update this one, or export the bundle with it.')
    values = _keys(data, Manifest, '')
    values['aux'] = AuxEncoding(**_keys(values['aux'], AuxEncoding, 'aux.'))
    _expect(isinstance(values['classes'], list), 'classes', values['classes'], 'a list')
    values['classes'] = tuple(_parse_class(item, n) for n, item in enumerate(values['classes']))
    _expect(isinstance(values['scores'], dict), 'scores', values['scores'], 'a mapping')
    if 'scene' in values:
        values['scene'] = _parse_scene(values['scene'])
    if 'vocabulary' in values:
        values['vocabulary'] = Vocabulary(**_keys(values['vocabulary'], Vocabulary, 'vocabulary.'))
    if 'variants' in values:
        _expect(isinstance(values['variants'], list), 'variants', values['variants'], 'a list')
        values['variants'] = tuple(_parse_variant(item, n)
                                   for n, item in enumerate(values['variants']))
    return Manifest(**values)


def _parse_scene(data: Any) -> SceneGraph:
    values = _keys(data, SceneGraph, 'scene.')
    if 'tensors' in values:
        _expect(isinstance(values['tensors'], list), 'scene.tensors', values['tensors'], 'a list')
        values['tensors'] = tuple(values['tensors'])
    return SceneGraph(**values)


def _parse_variant(data: Any, position: int) -> Variant:
    where = f'variants[{position}].'
    values = _keys(data, Variant, where)
    _expect(isinstance(values['files'], dict), f'{where}files', values['files'], 'a mapping')
    for key in ('backends', 'rgb_size', 'aux_size'):
        if values.get(key) is not None:
            _expect(isinstance(values[key], list), where + key, values[key], 'a list')
            values[key] = tuple(values[key])
    return Variant(**values)


def _parse_class(data: Any, position: int) -> ClassInfo:
    values = _keys(data, ClassInfo, f'classes[{position}].')
    _expect(isinstance(values['color'], list), f'classes[{position}].color', values['color'],
            'three integers 0..255 (red, green, blue)')
    return ClassInfo(values['id'], values['name'], tuple(values['color']))


def _keys(data: Any, record: type, prefix: str) -> dict[str, Any]:
    """Return `data` as keyword arguments of a dataclass; unknown and missing keys are errors."""
    _expect(isinstance(data, dict), prefix.rstrip('.') or 'the file', data, 'a mapping of keys')
    known = [field.name for field in fields(record)]
    for key in data:
        _expect(key in known, f'{prefix}{key}', 'an unknown key', 'one of ' + ', '.join(known))
    for field in fields(record):
        present = field.name in data or field.default is not MISSING
        _expect(present, f'{prefix}{field.name}', 'no such key', 'a value')
    return dict(data)


def _to_yaml(manifest: Manifest) -> str:
    data = {field.name: getattr(manifest, field.name) for field in fields(manifest)}
    data['aux'] = {f.name: getattr(manifest.aux, f.name) for f in fields(AuxEncoding)}
    data['classes'] = [{'id': c.id, 'name': c.name, 'color': list(c.color)}
                       for c in manifest.classes]
    data['scores'] = {key: float(value) for key, value in manifest.scores.items()}
    variants = data.pop('variants')
    for name in ('checkpoint_sha256', 'scored_on'):
        if not data[name]:
            del data[name]
    scene = data.pop('scene')
    if scene is not None:
        data['scene'] = {f.name: getattr(scene, f.name) for f in fields(SceneGraph)}
        names = data['scene'].pop('tensors')
        if names != SceneGraph.tensors:
            data['scene']['tensors'] = list(names)
    vocabulary = data.pop('vocabulary')
    if vocabulary is not None:
        data['vocabulary'] = {f.name: getattr(vocabulary, f.name) for f in fields(Vocabulary)}
    if variants:
        data['variants'] = [_variant_to_dict(variant) for variant in variants]
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=None)


def _variant_to_dict(variant: Variant) -> dict[str, Any]:
    data = {f.name: getattr(variant, f.name) for f in fields(Variant)}
    data |= {'backends': list(variant.backends), 'files': dict(variant.files)}
    if not data['measured']:
        del data['measured']
    for key in ('rgb_size', 'aux_size'):
        size = data.pop(key)
        if size is not None:
            data[key] = list(size)
    return data


def _expect(good: bool, key: str, found: object, expected: str) -> None:
    if not good:
        # Of nested aliases in a small file, repr() alone could fill the memory.
        text = reprlib.repr(found) if not isinstance(found, str) else f'"{found}"'
        raise RgbxSegError(f'{key} is {text[:80]}; expected {expected}.')


def _matches(pattern: str, value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _is_int(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_finite(value: object) -> bool:
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    return numeric and abs(value) <= sys.float_info.max  # type: ignore[arg-type]
