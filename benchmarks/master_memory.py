# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What memory MASTER takes on a GPU, counted on the meta device: nothing is allocated.

python -m benchmarks.master_memory [CONFIG.yaml] [key=value …]; prints the Markdown tables of
docs/models/master.md. Weights, gradients and moments are exact sums over tensors. Activations are
those that one forward pass keeps for the backward pass, followed operation by operation without
autocast; with checkpointing a layer's own come on top while it is computed again. Of 4 bits the
formula is bitsandbytes': half a byte a weight, a byte of scale for 64 of them, and 4 bytes for 256
scales; embeddings and norms stay in bfloat16.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_train.checkpoint import build_model
from rgbx_seg_train.config import Config
from rgbx_seg_train.config_file import load_config
from rgbx_seg_train.profile_trace import trace

CONFIG = Path(__file__).parents[1] / 'rgbx_seg_train' / 'configs' / 'master_mfnet.yaml'
GB = 1e9
PACKED = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes of a weight in 4 bits, with its scales
FULL = 4  # bytes of a trained weight, its gradient and each of its two moments
BATCHES = (1, 2)


class Weights(NamedTuple):
    """Bytes that do not depend on the images."""

    language: int  # frozen
    packed: float  # the same in 4 bits
    others: int  # frozen: CLIP
    trained: int
    layers: int  # of the language model


def network(config: Config) -> nn.Module:
    """Return the network of a configuration in training mode, on the meta device."""
    with torch.device('meta'), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # peft finds that loading into meta tensors does nothing
        return build_model(config, len(config.data.class_infos)).train()


def weigh(model: nn.Module) -> Weights:
    """Return the bytes of a network's weights."""
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    language = {name: p for name, p in frozen.items() if name.startswith('language.')}
    packed = sum(PACKED * p.numel() if p.ndim == 2 and 'embed_tokens' not in name
                 else 2 * p.numel() for name, p in language.items())
    return Weights(
        sum(p.nbytes for p in language.values()), packed,
        sum(p.nbytes for name, p in frozen.items() if name not in language),
        sum(FULL * p.numel() for p in model.parameters() if p.requires_grad),
        model.config.language.layers)


def activations(model: nn.Module, config: Config, batch: int, checkpointing: bool) -> int:
    """Return the bytes that a forward pass of so many pairs keeps at most."""
    model.set_gradient_checkpointing(checkpointing)
    with torch.device('meta'):
        size = (batch, 3, config.data.height, config.data.width)
        pair = torch.empty(size), torch.empty(size)
        names = [config.data.modality] * batch
        return trace(model, (*pair, names), lambda name: None, grad=True).peak_bytes


def tokens(model: nn.Module, config: Config) -> int:
    """Return the length of the language model's sequence."""
    lengths = []
    handle = model.language.llm.register_forward_pre_hook(
        lambda _, args, given: lengths.append(given['inputs_embeds'].shape[1]), with_kwargs=True)
    activations(model, config, 1, True)
    handle.remove()
    return lengths[0]


def tables(config: Config) -> str:
    """Return both Markdown tables."""
    model = network(config)
    own, length = weigh(model), tokens(model, config)
    common = [('CLIP, frozen, float32', own.others), ('what learns, float32', own.trained),
              ('its gradients', own.trained), ("AdamW's two moments", 2 * own.trained),
              ('averaged weights of CLIP and what learns', own.others + own.trained)]
    sums = [language + sum(size for _, size in common) for language in (own.language, own.packed)]
    kind = 'fp32' if model.language.options.precision == 'fp32' else 'bf16'
    lines = [f'| [GB] | {kind} | 4 bits |', '|---|---|---|',
             f'| language model, frozen | {own.language / GB:.2f} | {own.packed / GB:.2f} |',
             *(f'| {what} | {size / GB:.2f} | {size / GB:.2f} |' for what, size in common),
             f'| sum | {sums[0] / GB:.1f} | {sums[1] / GB:.1f} |', '',
             f'| {length} tokens | kept by a forward pass [GB] | and one layer again [GB] '
             f'| all, {kind} [GB] | all, 4 bits [GB] |', '|---|---|---|---|---|']
    for batch in BATCHES:
        whole = activations(model, config, batch, False)
        kept = activations(model, config, batch, True)
        again = (whole - kept) / own.layers
        for what, size, more in (('all kept', whole, 0.0), ('checkpointing', kept, again)):
            lines.append(f'| batch of {batch}, {what} | {size / GB:.1f} | {more / GB:.1f} | '
                         + ' | '.join(f'{(total + size + more) / GB:.1f}' for total in sums) + ' |')
    return '\n'.join(lines)


def _main() -> None:
    parser = Arguments(prog='master_memory', description=__doc__.split('\n')[0])
    parser.add_argument('config', nargs='?', type=Path, default=CONFIG)
    parser.add_argument('overrides', nargs='*', default=[], metavar='key=value')
    args = parser.parse_args()
    config = load_config(args.config, args.overrides)
    if config.model.family != 'master':
        raise RgbxSegError(f'{args.config}: its model.family is {config.model.family}; expected '
                           'master; name a configuration of MASTER.')
    print(tables(config))


if __name__ == '__main__':
    raise SystemExit(run_command(_main))
