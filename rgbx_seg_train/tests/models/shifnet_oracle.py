# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""SHIFNet once more, slowly and under the names of its official checkpoints.

`shapes` lists every tensor of such a checkpoint; `segment` computes logits from them with plain
tensor operations, window by window. Neither knows our modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from rgbx_seg_train.models.blocks.hiera import HieraConfig
from rgbx_seg_train.models.shifnet import SHIFNetConfig

State = dict[str, Tensor]


def blocks(hiera: HieraConfig) -> Iterator[tuple[int, int, int, int, bool]]:
    """Yield input width, output width, heads, window (0: global) and pooling of each block."""
    index = 0
    for stage, depth in enumerate(hiera.depths):
        for i in range(depth):
            first = i == 0 and stage > 0
            out, heads = hiera.dim * 2**stage, hiera.heads * 2**stage
            window = hiera.windows[stage - first]  # pooling still happens in larger ones
            if index in hiera.global_blocks:
                window = 0
            yield out // 2 if first else out, out, heads, window, first
            index += 1


class Shapes(dict[str, tuple[int, ...]]):
    """The tensors of a checkpoint, as they are listed."""

    def layer(self, name: str, *shape: int, bias: bool = True) -> None:
        """List a linear layer, a convolution or a norm."""
        self[f'{name}.weight'] = shape
        if bias:
            self[f'{name}.bias'] = shape[:1]

    def mlp(self, name: str, *dims: int) -> None:
        """List an MLP of SAM 2."""
        for i, (dim, out) in enumerate(pairwise(dims)):
            self.layer(f'{name}.layers.{i}', out, dim)

    def encoder(self, name: str, hiera: HieraConfig, width: int) -> None:
        """List trunk and neck of SAM 2, all but q, k and v, which families change."""
        trunk = f'{name}.trunk'
        self[f'{trunk}.pos_embed'] = (1, hiera.dim, *hiera.background)
        self[f'{trunk}.pos_embed_window'] = (1, hiera.dim, hiera.windows[0], hiera.windows[0])
        self.layer(f'{trunk}.patch_embed.proj', hiera.dim, 3, 7, 7)
        for i, (dim, out, _, _, _) in enumerate(blocks(hiera)):
            block = f'{trunk}.blocks.{i}'
            self.layer(f'{block}.norm1', dim)
            self.layer(f'{block}.norm2', out)
            self.layer(f'{block}.attn.proj', out, out)
            self.mlp(f'{block}.mlp', out, 4 * out, out)
            if dim != out:
                self.layer(f'{block}.proj', out, dim)
        for i in range(4):
            self.layer(f'{name}.neck.convs.{i}.conv', width, hiera.dim * 2**(3 - i), 1, 1)


def shapes(config: SHIFNetConfig, n_classes: int) -> Shapes:
    """Return the name and shape of each tensor of an official checkpoint."""
    found = Shapes()

    def unit(name: str, out: int, dim: int, *kernel: int) -> None:
        found.layer(f'{name}.conv', out, dim, *kernel, bias=False)
        found.layer(f'{name}.bn', out)
        found[f'{name}.bn.running_mean'] = found[f'{name}.bn.running_var'] = (out,)
        found[f'{name}.bn.num_batches_tracked'] = ()

    width, text = config.width, config.text_dim
    found.encoder('image_encoder', config.hiera, width)
    for i, (dim, out, _, _, _) in enumerate(blocks(config.hiera)):
        block = f'image_encoder.trunk.blocks.{i}'
        found.layer(f'{block}.attn.qkv', 3 * out, dim)
        for adapter in ('Space_Adapter', 'MLP_Adapter'):
            found.layer(f'{block}.{adapter}.D_fc1', out // 4, out)
            found.layer(f'{block}.{adapter}.D_fc2', out, out // 4)
    for i in range(4):
        fuse, context = f'fuse_block.{i}', f'decoder.ContextModule.{i}'
        for j in range(config.fusion_blocks):
            found.layer(f'{fuse}.layers.{j}.dwconv', width, 1, 7, 7)
            found.layer(f'{fuse}.layers.{j}.norm', width)
            found.layer(f'{fuse}.layers.{j}.pwconv1', 4 * width, width)
            found.layer(f'{fuse}.layers.{j}.pwconv2', width, 4 * width)
            found[f'{fuse}.layers.{j}.gamma'] = (width,)
        found.layer(f'{fuse}.out_proj', width, width, 1, 1)
        for stream in ('rgb_proj', 'x_proj'):
            found.layer(f'{fuse}.{stream}.0', text, width)
            found.layer(f'{fuse}.{stream}.2', text, text)
        narrow, wide = width // 4, width // 2
        inception = f'{context}.inception'
        unit(f'{context}.conv1_1', narrow, width, 1, 1)
        unit(f'{inception}.branch1x1', narrow, narrow, 1, 1)
        unit(f'{inception}.branch7x7_1', wide, narrow, 1, 1)
        unit(f'{inception}.branch7x7_2', wide, wide, 1, 7)
        unit(f'{inception}.branch7x7_3', narrow, wide, 7, 1)
        unit(f'{inception}.branch7x7dbl_1', wide, narrow, 1, 1)
        unit(f'{inception}.branch7x7dbl_2', wide, wide, 7, 1)
        unit(f'{inception}.branch7x7dbl_3', wide, wide, 1, 7)
        unit(f'{inception}.branch7x7dbl_4', wide, wide, 7, 1)
        unit(f'{inception}.branch7x7dbl_5', narrow, wide, 1, 7)
        unit(f'{inception}.final_conv', config.squeezed, narrow, 3, 3)
        found.layer(f'{context}.upsample.conv', width, config.squeezed, 3, 3)
        found.layer(f'decoder.GlobalFeatureConcat2D.{i}.project.0', width, 2 * width, 1, 1)
        found.layer(f'decoder.postprocess1.{i}.project.0.proj', wide, width)
    found.layer('decoder.linear_fuse', width, 2 * width, 1, 1)
    found.layer('decoder.head', text, width, 1, 1)
    found['decoder.logit_scale'] = ()
    found['label_feature'] = (n_classes, text)
    return found


def linear(s: State, name: str, x: Tensor) -> Tensor:
    return x @ s[f'{name}.weight'].T + s[f'{name}.bias']


def conv(s: State, name: str, x: Tensor, **options: int) -> Tensor:
    weight = s[f'{name}.weight']
    padding = options.pop('padding', None) or (weight.shape[2] // 2, weight.shape[3] // 2)
    return functional.conv2d(x, weight, s.get(f'{name}.bias'), padding=padding, **options)


def norm(s: State, name: str, x: Tensor) -> Tensor:
    """Layer norm over the last axis."""
    centered = x - x.mean(-1, keepdim=True)
    scaled = centered / (centered.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return scaled * s[f'{name}.weight'] + s[f'{name}.bias']


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def pool(x: Tensor) -> Tensor:
    """Maxima of 2x2 tokens of (B, h, w, C)."""
    return x.unfold(1, 2, 2).unfold(2, 2, 2).amax((-1, -2))


def bottleneck(s: State, name: str, x: Tensor) -> Tensor:
    return linear(s, f'{name}.D_fc2', gelu(linear(s, f'{name}.D_fc1', x)))


def attend(s: State, name: str, x: Tensor, heads: int, pooled: bool) -> Tensor:
    """Attention within one window (B, h, w, C)."""
    queries, keys, values = linear(s, f'{name}.qkv', x).chunk(3, dim=-1)
    queries = pool(queries) if pooled else queries
    width = queries.shape[-1] // heads
    found = []
    for head in range(heads):
        q, k, v = (part[..., head * width:(head + 1) * width].flatten(1, 2)
                   for part in (queries, keys, values))
        found.append(torch.softmax(q @ k.mT / width**0.5, -1) @ v)
    return linear(s, f'{name}.proj', torch.cat(found, -1)).view(queries.shape)


def block(s: State, name: str, x: Tensor, shape: tuple[int, int, int, int, bool]) -> Tensor:
    dim, out, heads, window, pooled = shape
    n = norm(s, f'{name}.norm1', x)
    skip = x if dim == out else pool(linear(s, f'{name}.proj', n))
    height, width = n.shape[1:3]
    side = window or max(height, width)
    rows, columns = (side, side) if window else (height, width)
    canvas = []
    for top in range(0, height, rows):
        strip = []
        for left in range(0, width, columns):
            tokens = n[:, top:top + rows, left:left + columns]
            missing = rows - tokens.shape[1], columns - tokens.shape[2]
            tokens = functional.pad(tokens, (0, 0, 0, missing[1], 0, missing[0]))
            y = attend(s, f'{name}.attn', tokens, heads, pooled)
            strip.append(y + bottleneck(s, f'{name}.Space_Adapter', y))
        canvas.append(torch.cat(strip, 2))
    x = skip + torch.cat(canvas, 1)[:, :skip.shape[1], :skip.shape[2]]
    n = norm(s, f'{name}.norm2', x)
    mlp = linear(s, f'{name}.mlp.layers.1', gelu(linear(s, f'{name}.mlp.layers.0', n)))
    return x + mlp + bottleneck(s, f'{name}.MLP_Adapter', n) / 2


def pyramid(s: State, images: Tensor, config: SHIFNetConfig) -> list[Tensor]:
    """Return four maps of one image each, finest first."""
    trunk = 'image_encoder.trunk'
    x = conv(s, f'{trunk}.patch_embed.proj', images, stride=4)
    height, width = x.shape[2:]
    background = functional.interpolate(s[f'{trunk}.pos_embed'], (height, width), mode='bicubic')
    tile = s[f'{trunk}.pos_embed_window']
    rows, columns = (torch.arange(n) % tile.shape[2] for n in (height, width))
    x = (x + background + tile[:, :, rows][:, :, :, columns]).permute(0, 2, 3, 1)
    maps, shapes = [], list(blocks(config.hiera))
    for i, shape in enumerate(shapes):
        x = block(s, f'{trunk}.blocks.{i}', x, shape)
        if i + 1 == len(shapes) or shapes[i + 1][0] != shapes[i + 1][1]:
            maps.append(x.permute(0, 3, 1, 2))
    levels = [conv(s, f'image_encoder.neck.convs.{3 - i}.conv', maps[i]) for i in range(4)]
    levels[2] = levels[2] + levels[3].repeat_interleave(2, 2).repeat_interleave(2, 3)
    return levels


def fuse(s: State, name: str, rgb: Tensor, aux: Tensor, config: SHIFNetConfig) -> Tensor:
    scores = []
    for stream, x in (('rgb_proj', rgb), ('x_proj', aux)):
        p = linear(s, f'{name}.{stream}.0', x.permute(0, 2, 3, 1)).clamp(min=0)
        p = linear(s, f'{name}.{stream}.2', p)
        scores.append((p * s['label_feature'].mean(0)).sum(-1) / p.square().sum(-1).sqrt())
    weight = 1 / (1 + torch.exp(scores[1] - scores[0]))[:, None]
    x = weight * rgb + (1 - weight) * aux
    for j in range(config.fusion_blocks):
        layer = f'{name}.layers.{j}'
        y = conv(s, f'{layer}.dwconv', x, groups=x.shape[1]).permute(0, 2, 3, 1)
        y = gelu(linear(s, f'{layer}.pwconv1', norm(s, f'{layer}.norm', y)))
        y = linear(s, f'{layer}.pwconv2', y) * s[f'{layer}.gamma']
        x = x + y.permute(0, 3, 1, 2)
    return conv(s, f'{name}.out_proj', x)


def enhance(s: State, name: str, x: Tensor) -> Tensor:
    def unit(part: str, x: Tensor) -> Tensor:
        x = conv(s, f'{name}.{part}.conv', x)
        mean, var, scale, shift = (
            s[f'{name}.{part}.bn.{key}'][:, None, None]
            for key in ('running_mean', 'running_var', 'weight', 'bias'))
        return ((x - mean) / (var + 1e-3).sqrt() * scale + shift).clamp(min=0)

    x = unit('conv1_1', x)
    second, third = x, x
    for i in (1, 2, 3):
        second = unit(f'inception.branch7x7_{i}', second)
    for i in (1, 2, 3, 4, 5):
        third = unit(f'inception.branch7x7dbl_{i}', third)
    x = unit('inception.final_conv', unit('inception.branch1x1', x) + second + third)
    return conv(s, f'{name}.upsample.conv', x)


def decode(s: State, maps: list[Tensor]) -> Tensor:
    levels = []
    for i, x in enumerate(maps):
        both = torch.cat([x, enhance(s, f'decoder.ContextModule.{i}', x)], 1)
        x = conv(s, f'decoder.GlobalFeatureConcat2D.{i}.project.0', both).permute(0, 2, 3, 1)
        x = linear(s, f'decoder.postprocess1.{i}.project.0.proj', x).permute(0, 3, 1, 2)
        levels.insert(0, functional.interpolate(x, scale_factor=2**i, mode='bilinear'))
    x = conv(s, 'decoder.head', conv(s, 'decoder.linear_fuse', torch.cat(levels, 1)))
    x, classes = x / x.norm(dim=1, keepdim=True), s['label_feature']
    classes = classes / classes.norm(dim=1, keepdim=True)
    cosines = torch.einsum('bchw,nc->bnhw', x, classes)
    return functional.interpolate(s['decoder.logit_scale'].exp() * cosines, scale_factor=4,
                                  mode='bilinear', align_corners=True)


def segment(s: State, rgb: Tensor, aux: Tensor, config: SHIFNetConfig) -> Tensor:
    """Return logits (B, N, H, W) of images whose sides are multiples of 32."""
    streams = zip(pyramid(s, rgb, config), pyramid(s, aux, config), strict=True)
    return decode(s, [fuse(s, f'fuse_block.{i}', *pair, config)
                      for i, pair in enumerate(streams)])
