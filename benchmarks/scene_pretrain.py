# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.scene_pretrain CONFIG OUT`: an image tower that tells scenes apart.

The tower of a tiny model that is trained along with the network ends up calling every scene the
same, and then nothing can be said of keeping its embeddings. Here it is trained first, as in the
paper's stage 1 but without captions: of a batch of scenes, the embedding of an RGB image must find
that of its own aux image (symmetric cross entropy of the cosines, SegRGB-X, equation 1, with S^m in
the place of S^t). OUT is a checkpoint for `train.init`, its tower to be frozen.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_train.checkpoint import Progress, build_model, save_checkpoint
from rgbx_seg_train.config import Config
from rgbx_seg_train.config_file import load_config
from rgbx_seg_train.data.sources import Mixture, open_source
from rgbx_seg_train.preprocess import normalize

TEMPERATURE = 0.07  # of the cosines, as CLIP starts with


def contrast(s_rgb: Tensor, s_aux: Tensor) -> tuple[Tensor, float]:
    """Return the symmetric contrastive loss of (B, D) pairs, and the share of pairs found."""
    cosines = functional.normalize(s_rgb, dim=1) @ functional.normalize(s_aux, dim=1).T
    own = torch.arange(len(cosines))
    loss = sum(functional.cross_entropy(rows / TEMPERATURE, own) for rows in (cosines, cosines.T))
    return loss / 2, float((cosines.argmax(1) == own).float().mean())


def pretrain(config: Config, steps: int, batch: int, lr: float) -> torch.nn.Module:
    """Return a model whose image tower was trained on the configuration's training data."""
    torch.manual_seed(config.train.seed)
    model = build_model(config, len(config.data.class_infos)).train()
    sets = [open_source(source, config.data) for source in config.data.train]
    data = Mixture(sets, [source.weight for source in config.data.train], config.data,
                   config.augment, config.train.seed)
    tower = [value for name, value in model.clip.named_parameters() if 'lora_' not in name]
    for value in model.clip.parameters():
        value.requires_grad_(False)
    for value in tower:
        value.requires_grad_(True)
    optimizer = torch.optim.AdamW(tower, lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps)
    for step in range(steps):
        rgb, aux = data.batch(step * batch, batch)[:2]
        images = normalize(torch.from_numpy(rgb), torch.from_numpy(aux))
        embeddings = model.embed(*images, [config.data.modality] * batch)
        loss, found = contrast(*embeddings)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == steps - 1:
            print(f'step {step}: loss {float(loss):.3f}, own aux image found {100 * found:.0f} %',
                  flush=True)
    return model


def _main() -> None:
    parser = Arguments(prog='scene_pretrain', description=__doc__.split('\n')[0])
    parser.add_argument('config', type=Path, help='of the training that follows')
    parser.add_argument('out', type=Path, help='checkpoint to write')
    parser.add_argument('overrides', nargs='*', default=[], metavar='key=value')
    parser.add_argument('--steps', type=int, default=400)
    parser.add_argument('--batch', type=int, default=48)
    parser.add_argument('--lr', type=float, default=5e-4)
    args = parser.parse_args()
    config = load_config(args.config, args.overrides)
    model = pretrain(config, args.steps, args.batch, args.lr)
    save_checkpoint(args.out, config, len(config.data.class_infos), Progress(),
                    {'model': model.state_dict()})


if __name__ == '__main__':
    raise SystemExit(run_command(_main))
