# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_profile FAMILY[:PRESET]`: parameters, multiply-adds, memory and time of a model.

All counts come from the meta device, so that they need no memory at any size; only --latency builds
the network. Figures that a paper prints stand beside ours. (A module named `profile` would hide the
standard library's from every script of this folder.)
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.manifest import MODALITIES
from rgbx_seg_train.config_file import override
from rgbx_seg_train.models import find_config, find_family
from rgbx_seg_train.models.family import Family, Published
from rgbx_seg_train.profile_latency import DEVICES, check_device, measure_latency
from rgbx_seg_train.profile_trace import Cost, trace

MODALITY = 'thermal'
SMALLEST = 32  # pixels
LARGEST = 1 << 14
POOL = 'lora'  # the component that merging takes away
OTHER = 'other'  # what no pattern of the model names
CONVENTION = (
    'multiply-adds of one forward pass of one pair, {}; gmac_layers: convolutions and products '
    'with weights (linear layers); gmac_all: also products of two activations (attention: Q K^T, '
    'A V); in neither: biases, norms, activations, resizing, products of weights alone, results '
    'that nothing reads, the LoRA pool (merged)'
)
HEADLINES = {False: 'gmac = gmac_layers', True: 'gmac = gmac_all'}  # by Family.attention_counted


def profile(name: str, preset: str = 'full', options: Mapping[str, Any] | None = None,
            size: tuple[int, int] | None = None, n_classes: int | None = None) -> dict[str, Any]:
    """Return all counts of a model as docs/benchmarks/models.md names them; nothing is allocated.

    Raises:
        RgbxSegError: an unknown family, preset or option.

    """
    family, config = find_family(name), find_config(name, preset, options or {})
    size, n_classes = size or family.size, n_classes or family.n_classes
    with torch.device('meta'), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # peft finds that loading into meta tensors does nothing
        model = _build(family, config, n_classes).eval()
        images = torch.empty(1, 3, *size), torch.empty(1, 3, *size)
        merged = model.merge(MODALITY)
        finder = component_finder(model)
        # the merged network may hold the model as its only part
        cost = trace(merged, images, lambda part: finder(part) or finder(part.partition('.')[2]))
        training = trace(model.train(), (*images, [MODALITY]), lambda name: None, grad=True)
    weights = [*merged.parameters(), *merged.buffers()]
    result = {
        'family': name, 'preset': preset, 'options': dict(options or {}), 'size': list(size),
        'n_classes': n_classes, 'modalities': list(family.modalities or MODALITIES),
        **_counts(model, finder, cost, family.attention_counted),
        'gmac_convention': CONVENTION.format(HEADLINES[family.attention_counted]),
        'activation_mb': cost.peak_bytes / 1e6,
        'activation_training_mb': training.peak_bytes / 1e6,
        'weights_mb': sum(weight.nbytes for weight in weights) / 1e6,
        'latency_ms': None, 'latency': None, 'torch': str(torch.__version__),
    }
    return result | {'published': compare(result, family.published.get(preset, ()))}


def _build(family: Family, config: Any, n_classes: int) -> nn.Module:
    """Return a network for the modalities of the published counts."""
    modalities = (family.modalities,) if family.modalities else ()
    return family.build(config, n_classes, *modalities)


def patterns_of(model: nn.Module) -> Sequence[tuple[str, str]]:
    """Return (component, pattern) pairs: the model's own, else one for each of its children."""
    children = [(name, rf'{name}(\..+)?') for name, _ in model.named_children()]
    return getattr(model, 'COMPONENTS', children)


def component_finder(model: nn.Module) -> Callable[[str], str | None]:
    """Return what names the component of a parameter or submodule; None: it is no component's."""
    patterns = [(name, re.compile(pattern)) for name, pattern in patterns_of(model)]
    return lambda full: next((name for name, pattern in patterns if pattern.fullmatch(full)), None)


def _counts(model: nn.Module, finder: Callable[[str], str | None], cost: Cost,
            attention_counted: bool) -> dict[str, Any]:
    """Return parameters and multiply-adds by component and in total."""
    parts: dict[str, dict[str, Any]] = {
        name: dict.fromkeys(('total', 'trainable', 'gmac', 'gmac_layers', 'gmac_all'), 0)
        for name in (*(name for name, _ in patterns_of(model)), OTHER)}
    for name, value in model.named_parameters():
        part = parts[finder(name) or OTHER]
        part['total'] += value.numel()
        part['trainable'] += value.numel() if value.requires_grad else 0
    for key, macs in (('gmac_layers', cost.layers), ('gmac_all', cost.products),
                      ('gmac', cost.products if attention_counted else cost.layers)):
        for name, count in macs.items():
            parts[name or OTHER][key] += count / 1e9
    parts = {name: part for name, part in parts.items() if any(part.values())}
    running = [part for name, part in parts.items() if name != POOL]
    return {
        'params_total': sum(part['total'] for part in running),
        'params_trainable': sum(part['trainable'] for part in parts.values()),
        'params_lora': parts.get(POOL, {'total': 0})['total'],
        'components': parts,
        **{key: sum(part[key] for part in running)
           for key in ('gmac', 'gmac_layers', 'gmac_all')},
    }


def compare(result: Mapping[str, Any], rows: Sequence[Published]) -> list[dict[str, Any]]:
    """Return published figures beside ours; a row of other sizes or options is only shown.

    `within` is None where there is nothing to judge: no tolerance, or not comparable.
    """
    return [_compare(result, row) for row in rows]


def _compare(result: Mapping[str, Any], row: Published) -> dict[str, Any]:
    ours: Any = result
    for key in row.key.split('.'):
        ours = ours.get(key) if isinstance(ours, Mapping) else None
    comparable = row.size in ((0, 0), tuple(result['size'])) and not result['options']
    judged = comparable and ours is not None
    deviation = ours / row.value - 1 if judged else None
    within = None
    if judged and not math.isnan(row.tolerance):
        within = (abs(deviation) <= row.tolerance if row.tolerance
                  else round_like(ours, row.value) == row.value)
    return {'what': row.what, 'key': row.key, 'ours': ours, 'published': row.value,
            'deviation': deviation, 'within': within, 'comparable': comparable,
            'tolerance': None if math.isnan(row.tolerance) else row.tolerance,
            'size': list(row.size), 'source': row.source}


def round_like(value: float, printed: float) -> float:
    """Return `value` with as many significant digits as `printed` shows."""
    digits = f'{printed:.12e}'.partition('e')[0].rstrip('0').replace('.', '').lstrip('-')
    return float(f'{value:.{max(len(digits) - 1, 0)}e}')


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned text: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join('  '.join([row[0].ljust(widths[0]),
                                *(cell.rjust(width) for cell, width in
                                  zip(row[1:], widths[1:], strict=True))]).rstrip()
                     for row in rows)


def text(result: Mapping[str, Any]) -> str:
    """Return a profile as people read it."""
    height, width = result['size']
    options = ''.join(f'  {key}={value}' for key, value in result['options'].items())
    rows = [['component', 'parameters', 'trainable', 'GMAC', 'with attention']]
    rows += [_row(name, part) for name, part in result['components'].items()]
    rows.append(_row('total' if not result['params_lora'] else f'total without {POOL}',
                     {'total': result['params_total'], 'trainable': result['params_trainable'],
                      **result}))
    parts = [
        f'{result["family"]}:{result["preset"]}{options}, {height}x{width}, '
        f'{result["n_classes"]} classes, RGB and {", ".join(result["modalities"])}, '
        f'torch {result["torch"]}',
        table(rows),
        f'GMAC: {result["gmac_convention"]}.',
        f'Float32, batch 1: weights {result["weights_mb"]:.1f} MB; activations at most '
        f'{result["activation_mb"]:.1f} MB at once, or {result["activation_training_mb"]:.1f} MB '
        'where a forward pass keeps what training needs.',
    ]
    if result['published']:
        heading = ['published', 'ours', 'published', 'deviation', 'tolerance', '']
        parts.append(table([heading, *map(_published_row, result['published'])]))
    if result['latency']:
        parts.append(_latency_text(result['latency']))
    return '\n\n'.join(parts)


def _row(name: str, part: Mapping[str, Any]) -> list[str]:
    return [name, f'{part["total"]:,}', f'{part["trainable"]:,}', f'{part["gmac_layers"]:.2f}',
            f'{part["gmac_all"]:.2f}']


def _published_row(row: Mapping[str, Any]) -> list[str]:
    def figure(value: float | None) -> str:
        if value is None:
            return '-'
        return f'{value:,.0f}' if value >= 1e4 else f'{value:.2f}'

    verdict = {True: 'yes', False: 'NO', None: ''}[row['within']]
    if not row['comparable']:
        height, width = row['size']
        verdict = f'not comparable: at {height}x{width}' if height else 'not comparable: options'
    deviation = '-' if row['deviation'] is None else f'{100 * row["deviation"]:+.2f} %'
    tolerance = {None: '-', 0: 'digits'}.get(row['tolerance']) or f'{100 * row["tolerance"]:g} %'
    return [f'{row["what"]} ({row["source"]})', figure(row['ours']), figure(row['published']),
            deviation, tolerance, verdict]


def _latency_text(latency: Mapping[str, Any]) -> str:
    rows = [['latency', 'median ms', '95th percentile', 'peak MB', 'warm-up s']]
    rows += [[name, f'{mode["median_ms"]:.1f}', f'{mode["p95_ms"]:.1f}', f'{mode["peak_mb"]:.0f}',
              f'{mode["warm_up_s"]:.1f}']
             for name, mode in latency['modes'].items() if 'error' not in mode]
    failed = [f'{name}: does not work here ({mode["error"]})'
              for name, mode in latency['modes'].items() if 'error' in mode]
    about = (f'{latency["device"]}, {latency["threads"]} threads, {latency["repeat"]} runs after '
             f'{latency["warm_up"]} to warm up; peak: {latency["peak"]}.')
    return '\n'.join([table(rows), *failed, about])


def read_size(text: str) -> tuple[int, int]:
    """Return (H, W) of a text such as 480x640."""
    match = re.fullmatch(r'(\d{1,6})x(\d{1,6})', text)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(SMALLEST <= side <= LARGEST for side in size):
        raise RgbxSegError(f'--size is {text!r}; expected HEIGHTxWIDTH, each {SMALLEST} to '
                           f'{LARGEST} pixels, such as 480x640.')
    return size


def _parser() -> Arguments:
    parser = Arguments(prog='rgbx_profile', description='Count what a model costs.')
    parser.add_argument('model', metavar='FAMILY[:PRESET]', help='such as segrgbx:small; else full')
    parser.add_argument('options', nargs='*', default=[], metavar='key=value',
                        help='fields of the preset to change, such as dsrm.structure=a')
    parser.add_argument('--size', metavar='HxW', help="of the images; default: the paper's")
    parser.add_argument('--classes', type=int, metavar='N', help="default: the paper's")
    parser.add_argument('--latency', action='store_true',
                        help='build the model and time it; torch.compile may take minutes')
    parser.add_argument('--device', choices=DEVICES, default='cpu', help='for --latency')
    parser.add_argument('--repeat', type=int, default=20, metavar='N', help='timed runs')
    parser.add_argument('--json', action='store_true', help='print one JSON object')
    return parser


def _main() -> None:
    args = _parser().parse_args()
    for name, value, most in (('classes', args.classes, 255), ('repeat', args.repeat, 10**6)):
        if value is not None and not 1 <= value <= most:
            raise RgbxSegError(f'--{name} is {value}; expected 1 to {most}.')
    name, _, preset = args.model.partition(':')
    preset, options = preset or 'full', override({}, args.options)
    size = read_size(args.size) if args.size else None
    if args.latency:
        check_device(args.device)
    result = profile(name, preset, options, size, args.classes)
    if args.latency:
        family = find_family(name)
        latency = measure_latency(
            lambda: _build(family, find_config(name, preset, options), result['n_classes'])
            .merge(MODALITY), tuple(result['size']), args.device, args.repeat)
        result |= {'latency': latency,
                   'latency_ms': latency['modes']['eager float32'].get('median_ms')}
        result['published'] = compare(result, family.published.get(preset, ()))
    print(json.dumps(result, indent=2) if args.json else text(result))


def main() -> int:
    """Run the command `rgbx_profile`."""
    return run_command(_main)


if __name__ == '__main__':
    raise SystemExit(main())
