# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The network as a bundle's graphs: uint8 images in, uint8 labels and confidences out.

Of a network of several modalities a bundle has one, and of one of several data sets' classes those
of one data set, if the configuration says so: the channels of the others are left out before the
best is chosen, which is remap() in Eq. 8 of SegRGB-X.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import MODALITIES, UNLABELED, Manifest
from rgbx_seg_train.config import Config
from rgbx_seg_train.data.labels import CLASS_SETS, channels
from rgbx_seg_train.models.blocks.segformer_head import SegformerHead
from rgbx_seg_train.onnx_passes import LOGITS as LOGITS
from rgbx_seg_train.preprocess import normalize


class BundleGraph(nn.Module):
    """What `model.onnx` computes; see "The contract of a bundle" in the design."""

    def __init__(self, merged: nn.Module, zero_aux: bool = False, chosen: Sequence[int] = (),
                 criterion: str = 'cross_entropy', reads_classes: bool = False) -> None:
        """Take a model of one modality, `forward(rgb, aux) -> logits (B, N, H, W)`.

        `chosen` are the channels of the logits that the bundle's ids 0, 1, 2 … stand for; all of
        them if none is named. By the `criterion` that the model was trained with logits are read;
        see `losses.probabilities`. One that `reads_classes` is given their rows too.
        """
        super().__init__()
        self.merged, self.zero_aux = merged, zero_aux
        self.criterion, self.reads_classes = criterion, reads_classes
        # Where classes are rows of one convolution the others need not be computed first.
        self.chosen = () if not chosen or _cut(merged, chosen) else tuple(chosen)

    def forward(self, rgb: Tensor, aux: Tensor, *more: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return label and confidence uint8 (1, H, W), and logits (1, N, H, W).

        rgb is uint8 (1, H, W, 3), aux (1, H, W, C). `more` are what `SceneGraph` returned, each
        (1, scene_width), without which a model that wants them embeds the pair itself, and last,
        for a model that reads classes, their rows (N, text_width).
        """
        logits = self.logits(*read_images(rgb, aux, self.zero_aux), *more)
        best, label = logits.max(1)
        if self.criterion == 'binary':
            confidence = best.sigmoid()
        else:  # exp(max - logsumexp) is the softmax of the best class without the others'.
            confidence = torch.exp(best - logits.logsumexp(1))
        # Through float: TensorRT 10.3 casts to uint8 only from floating point.
        label = label.float().to(torch.uint8)
        return label, (confidence * 255.0 + 0.5).to(torch.uint8), logits

    def logits(self, *inputs: Tensor) -> Tensor:
        """Return the logits (1, N, h, w) of images of any size that `read_images` returned."""
        *inputs, classes = inputs if self.reads_classes else (*inputs, None)
        logits = self.merged(*inputs) if classes is None else self.merged(*inputs, classes=classes)
        return logits[:, list(self.chosen)] if self.chosen else logits


class SceneGraph(nn.Module):
    """What `scene.onnx` computes: embeddings of both images as wholes."""

    def __init__(self, merged: nn.Module, zero_aux: bool = False) -> None:
        """Take a model of one modality with `embed(rgb, aux)`."""
        super().__init__()
        self.merged, self.zero_aux = merged, zero_aux

    def forward(self, rgb: Tensor, aux: Tensor) -> tuple[Tensor, ...]:
        """Return float (1, scene_width) each of a pair as `BundleGraph` takes it."""
        return tuple(self.merged.embed(*read_images(rgb, aux, self.zero_aux)))


def read_images(rgb: Tensor, aux: Tensor, zero_aux: bool) -> tuple[Tensor, Tensor]:
    """Return uint8 images as the networks read them, the second camera's blinded if `zero_aux`."""
    rgb, aux = normalize(rgb, aux)
    return rgb, aux * 0.0 if zero_aux else aux


def bundle_graph(model: nn.Module, config: Config, manifest: Manifest,
                 n_classes: int = 0) -> BundleGraph:
    """Return the graph of a bundle with this manifest, of the model of a checkpoint.

    `n_classes` are those that the checkpoint says it has, if that is to be checked.

    Raises:
        RgbxSegError: the model was not built for the manifest's modality, lacks a class, or reads
            no classes where there is a vocabulary.

    """
    if n_classes and n_classes != len(config.data.class_infos):
        raise RgbxSegError(f'the network has {n_classes} classes, but data.classes is '
                           f'{config.data.classes} with {len(config.data.class_infos)}; expected '
                           'those that it was trained with; choose by export.classes instead.')
    known = tuple(getattr(model, 'modalities', ())) or config.model.modalities or MODALITIES
    if manifest.modality not in known:
        raise RgbxSegError(f'the bundle is to be for RGB and {manifest.modality}, but the model '
                           f'was built for {", ".join(known)}; expected one of these; give '
                           f'export.modality={known[0]}, say.')
    merged, criterion = model.merge(manifest.modality), config.loss.criterion
    if manifest.vocabulary is None:
        return BundleGraph(merged, config.data.zero_aux, exported_channels(config), criterion)
    width = getattr(merged, 'text_width', 0)
    if not width:
        raise RgbxSegError(f'the bundle is to take its classes as an input, but {manifest.family} '
                           'as it was trained reads none; expected a network that compares pixels '
                           'with texts, such as SHIFNet with an HPD decoder or LMSeg; leave '
                           'export.open_classes out.')
    if width != manifest.vocabulary.width:
        raise RgbxSegError(f'the embeddings of the bank have {manifest.vocabulary.width} numbers '
                           f'each; expected {width}, as the model has them: make the bank with the '
                           'text model that it was trained with.')
    return BundleGraph(merged, config.data.zero_aux, (), criterion, reads_classes=True)


def exported_channels(config: Config) -> tuple[int, ...]:
    """Return the channel of each class of export.classes; () if the bundle has all channels.

    A set with a class that the network has no channel for is refused: a robot could never be told
    of what its bundle claims to know.
    """
    own, wanted = config.data.classes, config.export.classes
    if wanted in ('', own):
        return ()
    infos = CLASS_SETS[wanted]
    found = channels(wanted, own) if own in CLASS_SETS else (UNLABELED,) * len(infos)
    missing = [info.name for info, channel in zip(infos, found, strict=True)
               if channel == UNLABELED]
    if missing:
        fitting = [name for name in CLASS_SETS if name == own or own in CLASS_SETS
                   and UNLABELED not in channels(name, own)]
        raise RgbxSegError(f'export.classes is {wanted}, but the network, which has the classes '
                           f'{own}, gives no {", ".join(missing[:5])}'
                           f'{" …" if len(missing) > 5 else ""}; expected one of '
                           f'{", ".join(fitting or [own])}; leave export.classes out, or train '
                           f'with data.classes={wanted}.')
    return found


def _cut(merged: nn.Module, chosen: Sequence[int]) -> bool:
    """Leave only some classes before logits are enlarged; tell whether the place is known."""
    heads = [part for part in merged.modules() if isinstance(part, SegformerHead)]
    for head in heads:
        whole = head.classify
        head.classify = nn.Conv2d(whole.in_channels, len(chosen), 1, bias=whole.bias is not None)
        rows = list(chosen)
        head.classify.weight = nn.Parameter(whole.weight.detach()[rows].clone())
        if whole.bias is not None:
            head.classify.bias = nn.Parameter(whole.bias.detach()[rows].clone())
    network = getattr(merged, 'network', None)
    if getattr(network, 'leaves_out', False):  # its decoder has other channels for each image
        return False
    if not heads and isinstance(decoder := getattr(network, 'decoder', None), nn.Module):
        network.decoder = _Chosen(decoder, chosen)
        return True
    return bool(heads)


class _Chosen(nn.Module):
    """A decoder of which some channels are wanted."""

    def __init__(self, decoder: nn.Module, chosen: Sequence[int]) -> None:
        super().__init__()
        self.decoder, self.chosen = decoder, list(chosen)

    def forward(self, *inputs: object) -> Tensor:
        return self.decoder(*inputs)[:, self.chosen]
