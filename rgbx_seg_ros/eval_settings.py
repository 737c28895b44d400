# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a bag evaluation runs and how: by the node's own parameters, so that it judges the robot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.class_choice import BANK_SUFFIX, YAML_SUFFIXES, find_classes
from rgbx_seg_ros.engine import Options, Size
from rgbx_seg_ros.manifest import Manifest, load_bundle
from rgbx_seg_ros.parameters import PARAMETERS, PairSettings, Settings, check, read

MAX_YAML_BYTES = 1 << 20
MAX_DEPTH = 8  # of namespaces
NODE = 'segment'  # as segment.launch.py calls it


@dataclass(frozen=True)
class EvalSettings:
    """Everything that decides the numbers of an evaluation, but for the bag; it can be pickled."""

    bundles: tuple[Path, ...]
    pair: PairSettings  # sync, degraded modes, thermal front end, registration
    backend: str = 'auto'
    precision: str = 'auto'
    threshold: float = 0.0  # confidence.threshold
    smoothing_s: float = 0.0  # mask.smoothing
    scene_every: int = 0
    alpha: float = 0.6  # overlay.alpha
    rgb_size: Size | None = None  # engine.rgb_size, (H, W)
    engine_file: Path | None = None
    classes: tuple[str, ...] = ()  # to find; (): as classes_file or the bundle says
    classes_file: Path | None = None
    warmup: int = 2  # inferences before the first pair
    rgb_topic: str = ''  # '': told from the names
    aux_topic: str = ''
    label_topic: str = ''
    labels: Path | None = None  # folder of labels by stamp, instead of a topic
    palette: Path | None = None  # YAML of the colors of color labels; else those of the manifest
    ablate_every: int = 10  # every n-th pair runs once more without aux; 0 = none
    limit: int = 0  # pairs of each bag; 0 = all
    pictures: int = 6  # worst and best frames shown, of each kind
    video: bool = True
    write_bag: bool = False
    rerun: bool = False

    def for_bundle(self, bundle: Path) -> Settings:
        """Return what the node would run this bundle by."""
        return Settings(bundle, self.backend, self.warmup, (self.pair,), self.precision,
                        Options(self.rgb_size, self.engine_file), self.classes, self.classes_file)

    def manifest_of(self, bundle: Path) -> Manifest:
        """Return the manifest of a bundle with the classes that it is to find."""
        manifest = load_bundle(bundle)
        choice = find_classes(bundle, manifest, self.classes, self.classes_file)
        return manifest if choice is None else replace(manifest, classes=choice.classes)


def classes_given(text: str) -> dict[str, Any]:
    """Return the parameters of the node that `--classes` stands for: of names, or of a file."""
    if Path(text).suffix.lower() in (*YAML_SUFFIXES, BANK_SUFFIX):
        return {'classes': [''], 'classes_file': text}
    return {'classes': [name.strip() for name in text.split(',')]}


def node_settings(file: Path | None, given: Mapping[str, Any], pair: str = '') -> dict[str, Any]:
    """Return the fields of EvalSettings that are parameters of the node.

    They come from a YAML file as the node takes it, and `given`, name -> value, which wins. `pair`
    names the camera pair that is meant where the file has several.

    Raises:
        RgbxSegError: the file is none, or a parameter is unknown or out of range.

    """
    values: dict[str, Any] = {parameter.name: parameter.default for parameter in PARAMETERS}
    values.update({name: check(name, value) for name, value in
                   {**(_load(file) if file else {}), **given}.items()})
    values['bundle'] = 'given by --bundle'
    settings = read(values)
    names = [one.name for one in settings.pairs]
    if pair and pair not in names:
        raise RgbxSegError(f'--pair is {pair}, expected one of {", ".join(filter(None, names))}; '
                           'the pairs are named by the parameter pairs.')
    if not pair and len(names) > 1:
        raise RgbxSegError(f'{file}: it names the camera pairs {", ".join(names)}, expected one to '
                           'evaluate; choose it by --pair.')
    chosen = settings.pairs[names.index(pair) if pair else 0]

    def value(name: str) -> Any:
        return values.get(f'{chosen.name}.{name}', values[name])

    return {'pair': chosen, 'backend': settings.backend, 'precision': settings.precision,
            'rgb_size': settings.options.rgb_size, 'engine_file': settings.options.engine_file,
            'classes': settings.classes, 'classes_file': settings.classes_file,
            'warmup': settings.warmup, 'threshold': value('confidence.threshold'),
            'smoothing_s': value('mask.smoothing'), 'scene_every': value('scene.every'),
            'alpha': value('overlay.alpha')}


def _load(file: Path) -> dict[str, Any]:
    """Return the parameters of a ROS 2 parameter file, dotted name -> value."""
    try:
        if file.stat().st_size > MAX_YAML_BYTES:
            raise RgbxSegError(f'{file}: larger than {MAX_YAML_BYTES} bytes, expected a file of '
                               'parameters such as config/segment.yaml.')
        content = yaml.safe_load(file.read_text('utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).split('\n')[0]
        raise RgbxSegError(f'{file}: cannot be read ({reason}), expected a file of parameters such '
                           'as config/segment.yaml.') from None
    nodes = dict(_nodes(content, ())) if isinstance(content, dict) else {}
    named = [name for name in nodes if '*' not in name]
    ours = [name for name in named if name.rpartition('/')[2] == NODE] or named
    if not nodes or len(ours) > 1:
        raise RgbxSegError(f'{file}: it has parameters of {len(ours)} nodes, expected one called '
                           f'{NODE}, or /**, with ros__parameters below, as config/segment.yaml '
                           'has them.')
    found: dict[str, Any] = {}
    for name in [*(name for name in nodes if '*' in name), *ours]:  # as rcl: the name wins
        found.update(_flat(nodes[name]))
    # Where the evaluation has its own word, or nothing to do.
    return {name: value for name, value in found.items() if name not in ('bundle', 'use_sim_time')}


def _nodes(tree: Mapping[str, Any], above: tuple[str, ...]
           ) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the parameters of each node of a file by its name; namespaces may be levels of it."""
    for key, value in tree.items():
        if key == 'ros__parameters' and isinstance(value, dict):
            yield '/'.join(above), value
        elif isinstance(value, dict) and len(above) < MAX_DEPTH:
            yield from _nodes(value, (*above, str(key)))


def _flat(tree: Mapping[str, Any], above: Sequence[str] = ()) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        names = [*above, str(key)]
        flat.update(_flat(value, names) if isinstance(value, dict) else {'.'.join(names): value})
    return flat
