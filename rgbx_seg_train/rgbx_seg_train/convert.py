# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_convert FAMILY[:PRESET] OUT.safetensors`: makes a checkpoint from the weights of others.

Each `--from PART=WHERE` names a file, a folder or a hub repository for one part of the model, such
as its trunk; what no part fills keeps random weights and is listed. The checkpoint says where its
weights are from, and rgbx_train (as train.init), rgbx_evaluate and rgbx_export read it.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_train.checkpoint import HEADER, Progress, build_model, save_checkpoint
from rgbx_seg_train.config import Config
from rgbx_seg_train.config_file import override, parse_config
from rgbx_seg_train.hub import parse_hub_id
from rgbx_seg_train.models import FAMILIES, find_config, find_family
from rgbx_seg_train.models.family import Family, Part
from rgbx_seg_train.text import check_classes, tells_classes
from rgbx_seg_train.weights import read_weights

PARITY_SAMPLES = 4  # synthetic; what rgbx_export compares the bundle on
LICENSE = 'that of the weights it was made from'


class Source(NamedTuple):
    """Where one part of a model was read from."""

    part: str
    where: str  # as the user or the table named it
    origin: str  # file and hash, or repository and commit
    tensors: int


class Converted(NamedTuple):
    """What a conversion filled and what it left: component -> number of random tensors."""

    sources: tuple[Source, ...]
    random: dict[str, int]


def convert(family: str, preset: str, out: Path, parts: Mapping[str, str], seed: int = 0,
            overrides: Sequence[str] = ()) -> Converted:
    """Write a checkpoint of a model whose parts are read from where `parts` says, in its order.

    Raises:
        RgbxSegError: an unknown name, weights that cannot be read or do not fit, or `out` is
            something else than a checkpoint; then nothing is written.

    """
    table = find_family(family)
    find_config(family, preset)
    for name in parts:
        _find_part(table, family, name)
    _check_out(out)
    config, told = _config(table, family, preset, overrides)
    n_classes = len(config.data.class_infos)
    torch.manual_seed(seed)
    model = build_model(config, n_classes)
    left, sources = set(model.state_dict()), []
    for name, where in parts.items():
        if name == 'classes' and (header := tells_classes(where)) is not None:
            check_classes(header, Path(where), config.data.class_infos)
        filled, origin = _fill(model, name, table.parts[name], where)
        left -= filled
        sources.append(Source(name, where, origin, len(filled)))
    random = _count(model, left)
    config = _with_provenance(config, told, sources, random, seed)
    try:
        save_checkpoint(out, config, n_classes, Progress(), {'model': model.state_dict()})
    except SafetensorError as error:
        raise RgbxSegError(f'{out}: cannot be written ({str(error)[:80]}); check the path, its '
                           'permissions and the free space.') from None
    return Converted(tuple(sources), random)


def _find_part(family: Family, family_name: str, name: str) -> Part:
    if name not in family.parts:
        raise RgbxSegError(f'part {name!r} of {family_name}: unknown; expected one of '
                           f'{", ".join(family.parts) or "none"}; `rgbx_convert --list '
                           f'{family_name}` tells what they are.')
    return family.parts[name]


def _config(family: Family, family_name: str, preset: str,
            overrides: Sequence[str]) -> tuple[Config, Mapping[str, Any]]:
    """Return the configuration, and what the user said of `export`."""
    height, width = family.size
    data = override({
        'name': f'{family_name}_{preset}',
        'data': {'height': height, 'width': width,
                 'test': [{'kind': 'synthetic', 'count': PARITY_SAMPLES}]},
        'model': {'family': family_name, 'preset': preset},
    }, overrides)
    config = parse_config(data, 'the settings')
    if (config.model.family, config.model.preset) != (family_name, preset):
        raise RgbxSegError(f'model.family and model.preset are {config.model.family} and '
                           f'{config.model.preset}; expected {family_name} and {preset}; name '
                           'them only in FAMILY:PRESET.')
    return config, data.get('export') or {}


def _check_out(out: Path) -> None:
    """Refuse to write over what is no checkpoint: the weights of others end alike."""
    if out.suffix != '.safetensors':
        raise RgbxSegError(f'{out}: expected a name that ends in .safetensors for the checkpoint; '
                           'name it before any key=value.')
    if not out.exists():
        return
    try:
        with safe_open(out, 'pt') as file:
            ours = HEADER in (file.metadata() or {})
    except (SafetensorError, OSError):
        ours = False
    if not ours:
        raise RgbxSegError(f'{out}: is there and is no checkpoint of rgbx_seg; expected a new name '
                           'or one to replace; name another.')


def _fill(model: nn.Module, name: str, part: Part, where: str) -> tuple[set[str], str]:
    """Load one part into the model; return the names it filled and where they are from."""
    state, origin = read_weights(where, part.files)
    try:
        entries = part.convert(model, state)
    except RgbxSegError as error:
        raise RgbxSegError(f'part {name} from {where}: {error}') from None
    except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise RgbxSegError(f'part {name} from {where}: its tensors are not those of such a part '
                           f'({type(error).__name__}: {str(error)[:60]}); expected {part.help}; '
                           'name another file.') from None
    _check_fit(model, entries, f'part {name} from {where}')
    model.load_state_dict(entries, strict=False)
    return set(entries), origin


def _check_fit(model: nn.Module, entries: Mapping[str, Tensor], what: str) -> None:
    expected = model.state_dict()
    wrong = sorted(name for name, tensor in entries.items()
                   if name not in expected or tensor.shape != expected[name].shape)
    if wrong or not entries:
        found = tuple(entries[wrong[0]].shape) if wrong else ()
        wanted = tuple(expected[wrong[0]].shape) if wrong and wrong[0] in expected else 'no such'
        raise RgbxSegError(f'{what}: {len(wrong)} of {len(entries)} tensors do not fit the model'
                           + (f' (such as {wrong[0]}: {found}, expected {wanted})' if wrong else '')
                           + '; they are of another preset or model: name fitting ones.')
    for name, tensor in entries.items():
        kind = expected[name].dtype
        if not torch.isfinite(tensor.to(kind) if kind.is_floating_point else tensor).all():
            raise RgbxSegError(f'{what}: {name} holds values that are no numbers; expected finite '
                               'weights; fetch them again.')


def _count(model: nn.Module, names: Iterable[str]) -> dict[str, int]:
    """Return how many of the names each component of the model has, in its order."""
    patterns = getattr(model, 'COMPONENTS', ())
    counts = Counter(next((component for component, pattern in patterns
                           if re.fullmatch(pattern, name)), name.split('.')[0]) for name in names)
    order = [component for component, _ in patterns]
    return {name: counts[name] for name in sorted(
        counts, key=lambda name: order.index(name) if name in order else len(order))}


def _with_provenance(config: Config, told: Mapping[str, Any], sources: Sequence[Source],
                     random: Mapping[str, int], seed: int) -> Config:
    """Return the configuration with what the weights are, where the user did not say it."""
    texts = [f'{source.part} from {source.origin}' for source in sources]
    rest = f'the rest random (seed {seed})' if texts else f'random (seed {seed})'
    text = 'weights: ' + '; '.join([*texts, rest] if random else texts)
    said = {'training_data': text} | ({'model_license': LICENSE} if sources else {})
    export = replace(config.export, **{key: value for key, value in said.items()
                                       if key not in told})
    return replace(config, export=export)


def list_parts(names: Sequence[str]) -> str:
    """Return the parts of families, and where `--pretrained` takes them from, as text."""
    lines = []
    for name in names:
        family = find_family(name)
        lines += [f'{name} (presets {", ".join(family.presets)})']
        for part, row in family.parts.items():
            lines += [f'  {part:12}{row.help}', f'  {"":12}from {" or ".join(row.files)}']
            presets: dict[str, list[str]] = {}
            for preset, wheres in family.pretrained.items():
                if part in wheres:
                    presets.setdefault(_resolved(wheres[part]), []).append(preset)
            lines += [f'  {"":12}{where} ({", ".join(those)})' for where, those in presets.items()]
    return '\n'.join(lines)


def _resolved(where: str) -> str:
    hub = parse_hub_id(where)
    return f'{hub.repo}@{hub.revision}' if hub else where


def _report(out: Path, converted: Converted) -> str:
    lines = [f'{"part":18}{"tensors":>8}  from']
    for part, where, origin, tensors in converted.sources:
        hub = None if os.path.exists(os.path.expanduser(where)) else parse_hub_id(where)
        pin = f' (today\'s {hub.revision}: name {origin} to stay with it)' if (
            hub and not hub.pinned) else ''
        lines.append(f'{part:18}{tensors:8}  {origin}{pin}')
    lines += [f'{name:18}{count:8}  random' for name, count in converted.random.items()]
    return '\n'.join([*lines, f'{out}: {out.stat().st_size / 1e6:.1f} MB'])


def _parser() -> Arguments:
    parser = Arguments(prog='rgbx_convert',
                       description='Make a checkpoint from the weights of others.')
    parser.add_argument('model', nargs='?', metavar='FAMILY[:PRESET]',
                        help=f'{", ".join(FAMILIES)}; the preset is full if not given')
    parser.add_argument('out', nargs='?', type=Path, metavar='OUT.safetensors',
                        help='the checkpoint to write')
    parser.add_argument('overrides', nargs='*', default=[], metavar='key=value',
                        help='settings of its configuration, such as data.height=512')
    parser.add_argument('--from', action='append', default=[], dest='parts', metavar='PART=WHERE',
                        help='file, folder or OWNER/NAME[@REVISION] of the hub; may be repeated')
    parser.add_argument('--pretrained', action='store_true',
                        help="take the parts not named from the preset's hub repositories")
    parser.add_argument('--seed', type=int, default=0, help='of the random rest')
    parser.add_argument('--list', action='store_true', help='tell the parts, write nothing')
    return parser


def _parts(table: Family, preset: str, texts: Sequence[str], pretrained: bool) -> dict[str, str]:
    """Return part -> where; those that `--pretrained` adds come first, the named ones win."""
    named: dict[str, str] = {}
    for text in texts:
        part, equals, where = text.partition('=')
        if not equals or not part or not where or part in named:
            raise RgbxSegError(f'--from {text}: expected PART=WHERE, each part once; '
                               '`rgbx_convert --list` tells the parts.')
        named[part] = where
    if not pretrained:
        return named
    if preset not in table.pretrained:
        raise RgbxSegError(f'--pretrained: nobody published weights for the preset {preset}; '
                           f'expected one of {", ".join(table.pretrained) or "none"}; use --from.')
    added = {part: where for part, where in table.pretrained[preset].items() if part not in named}
    return added | named


def _main() -> None:
    args = _parser().parse_args()
    family, _, preset = (args.model or '').partition(':')
    if args.list:
        print(list_parts([family] if family else list(FAMILIES)))
        return
    if not family or args.out is None:
        raise RgbxSegError('the arguments FAMILY[:PRESET] and OUT.safetensors are required; '
                           '`rgbx_convert --help` lists the arguments.')
    preset = preset or 'full'
    find_config(family, preset)
    parts = _parts(find_family(family), preset, args.parts, args.pretrained)
    print(_report(args.out, convert(family, preset, args.out, parts, args.seed, args.overrides)))


def main() -> int:
    """Run the command `rgbx_convert`."""
    return run_command(_main)


if __name__ == '__main__':
    raise SystemExit(main())
