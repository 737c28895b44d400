# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_probe_clip CHECKPOINT …`: does MA-CLIP tell the modalities apart (figure 5)?

A linear classifier learns the modality from the embeddings of half of the held-out scenes and is
scored on the others; all views of a scene are in the same half. The tower is told the modality, as
it chooses the LoRA, so the same is measured with one LoRA for all and with none: what is left then
is in the image. Pixels and chance stand beside it, and the start of the training, if it is named.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_train.captions import caption_table, sample_names
from rgbx_seg_train.checkpoint import load_checkpoint, load_model
from rgbx_seg_train.clip_text import load_caption_tower
from rgbx_seg_train.config import Config
from rgbx_seg_train.config_file import config_to_dict, override, parse_config
from rgbx_seg_train.data.sample import Sample
from rgbx_seg_train.data.sources import modality_of, open_all, stack
from rgbx_seg_train.models.segrgbx.ma_clip import ModalityClip
from rgbx_seg_train.preprocess import normalize

Array = NDArray[np.float32]
BATCH = 16
LORAS = ('own', 'one', 'none')  # of each modality; the first one's for all; the bare CLIP
BARE = '__base__'  # peft's name for no adapter
THUMBNAIL = 8  # pixels a side, of the probe that sees no embedding
FIT_SHARE = 0.5  # of the scenes
MIN_SCENES = 4  # of each modality on each side
FOLDS_SEED, TSNE_SEED = 0, 0
COLORS = {'event': '#7b3fa0', 'thermal': '#d1495b', 'depth': '#00798c', 'polarization': '#edae49',
          'lightfield': '#2e933c'}


class Views(NamedTuple):
    """Held-out pairs, as one row each."""

    samples: tuple[Sample, ...]  # at the network's size
    modality: NDArray[np.str_]
    scene: NDArray[np.str_]  # views of one scene share it
    captions: tuple[str, ...]  # those that occur; none if the checkpoint has none for these
    caption: NDArray[np.int64]  # (N,) into captions


class Scores(NamedTuple):
    """What a linear classifier makes of some rows."""

    accuracy: float
    by_modality: dict[str, float]
    silhouette: float  # -1..1: how far apart the modalities lie, compared with their own width


def probe(rows: Array, modality: NDArray[np.str_], scene: NDArray[np.str_]) -> Scores:
    """Fit a logistic regression to half of the scenes and score it on the other half.

    Raises:
        RgbxSegError: fewer than two modalities, or too few scenes of one.

    """
    fit = np.array([_fits(name) for name in scene])
    names = sorted(set(modality.tolist()))
    fewest = min(int(np.sum(side & (modality == name))) for side in (fit, ~fit) for name in names)
    if len(names) < 2 or fewest < MIN_SCENES:
        raise RgbxSegError(f'{len(set(scene))} scenes of {", ".join(names)} were given; expected '
                           f'two or more modalities and some {4 * MIN_SCENES} scenes of each; name '
                           'more in data.test.')
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(rows[fit], modality[fit])
    right = model.predict(rows[~fit]) == modality[~fit]
    return Scores(float(right.mean()),
                  {name: float(right[modality[~fit] == name].mean()) for name in names},
                  float(silhouette_score(rows, modality, metric='cosine')))


def _fits(scene: str) -> bool:
    return int(hashlib.sha256(scene.encode()).hexdigest()[:8], 16) / 2**32 < FIT_SHARE


def held_out(config: Config) -> Views:
    """Return the pairs of data.test; RgbxSegError if there are none."""
    sources, data = config.data.test, config.data
    if not sources:
        raise RgbxSegError('data.test is empty; expected sources of two or more modalities, which '
                           'MA-CLIP has not seen; name them.')
    sets = open_all(sources, data, labeled=False)
    samples, modality, scene = [], [], []
    for source, images in zip(sources, sets, strict=True):
        names = sample_names(images)
        place = '' if source.kind == 'synthetic' else f'{source.kind}/'
        scene += [place + name for name in names]
        modality += [modality_of(source, data)] * len(names)
        samples += [_resized(images[n], data.height, data.width) for n in range(len(names))]
    try:
        table = caption_table(sources, sets, config.pretrain.captions)
        captions, caption = table.texts, np.concatenate(table.ids)
    except RgbxSegError:  # a probe needs none
        captions, caption = (), np.zeros(len(samples), np.int64)
    return Views(tuple(samples), np.array(modality), np.array(scene), captions, caption)


def _resized(sample: Sample, height: int, width: int) -> Sample:
    size = (width, height)
    rgb, aux = (cv2.resize(np.asarray(image), size, interpolation=cv2.INTER_AREA)
                for image in (sample.rgb, sample.aux))
    label = np.zeros((height, width), np.uint8)
    return replace(sample, rgb=rgb, aux=aux.reshape(height, width, -1), label=label)


@torch.inference_mode()
def embed(clip: ModalityClip, views: Views, config: Config, lora: str,
          device: torch.device) -> tuple[Array, Array]:
    """Return S^r and S^m of all pairs, unit rows float32 (N, D), through one of LORAS."""
    pool, parts = list(clip.tower.peft_config), []
    for first in range(0, len(views.samples), BATCH):
        samples = views.samples[first:first + BATCH]
        batch = stack(samples, config.data)
        images = normalize(*(torch.from_numpy(image).to(device) for image in batch[:2]))
        names = {'own': [sample.modality for sample in samples],
                 'one': pool[:1] * len(samples), 'none': [BARE] * len(samples)}[lora]
        pair = torch.stack(clip(*images, names)).float()
        parts.append(torch.nn.functional.normalize(pair, dim=2).cpu())
    s_rgb, s_aux = torch.cat(parts, 1).numpy()
    return s_rgb, s_aux


def thumbnails(views: Views) -> Array:
    """Return the aux images as rows of a few pixels, three values each."""
    def small(image: NDArray[np.uint8]) -> Array:
        tiny = cv2.resize(image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
        return np.broadcast_to(tiny.reshape(THUMBNAIL, THUMBNAIL, -1),
                               (THUMBNAIL, THUMBNAIL, 3)).ravel() / np.float32(255)

    return np.stack([small(sample.aux) for sample in views.samples])


def retrieval(rows: Array, texts: Array, own: NDArray[np.int64]) -> float:
    """Return the share of the rows whose nearest text is their own."""
    return float(((rows @ texts.T).argmax(1) == own).mean())


def probe_checkpoint(path: Path, config: Config, views: Views) -> tuple[dict[str, Any], Array]:
    """Return all scores of a checkpoint on some pairs as JSON's types, and their S^m."""
    model, checkpoint = load_model(path)
    if getattr(model, 'clip', None) is None:
        raise RgbxSegError(f'checkpoint {path}: has no MA-CLIP; expected segrgbx with one; name '
                           'another checkpoint.')
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    clip = model.clip.to(device)
    texts = _texts(config, views, clip.config.embed, device)
    rows, shown = [], np.zeros((0, 0), np.float32)
    for lora in tqdm(LORAS, path.stem, unit='pool', disable=None):
        s_rgb, s_aux = embed(clip, views, config, lora, device)
        shown = s_aux if lora == 'own' else shown
        for name, values in (('S^r', s_rgb), ('S^m', s_aux)):
            row = {'embedding': name, 'lora': lora,
                   **probe(values, views.modality, views.scene)._asdict()}
            if texts is not None:
                row['own_caption_first'] = retrieval(values, texts, views.caption)
            rows.append(row)
    names, counts = np.unique(views.modality, return_counts=True)
    return {
        'checkpoint': path.name, 'step': checkpoint.progress.step,
        'pairs': dict(zip(names.tolist(), counts.tolist(), strict=True)),
        'chance': float(counts.max() / counts.sum()),
        'pixels': probe(thumbnails(views), views.modality, views.scene)._asdict(),
        'captions': len(views.captions), 'rows': rows,
    }, shown


def _texts(config: Config, views: Views, width: int, device: torch.device) -> Array | None:
    if not views.captions:
        return None
    embeddings = load_caption_tower(config.pretrain.text_model, width).embed(views.captions, device)
    return torch.nn.functional.normalize(embeddings, dim=1).cpu().numpy()


def draw(path: Path, panels: Sequence[tuple[str, Array, Sequence[str]]]) -> None:
    """Write a t-SNE picture (PNG) with a panel for each (title, rows, modality of each row)."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.2 * len(panels), 4.2),
                                   squeeze=False, layout='constrained')
    for axis, (title, rows, modality) in zip(axes[0], panels, strict=True):
        perplexity = min(30.0, (len(rows) - 1) / 3)
        places = TSNE(perplexity=perplexity, metric='cosine', init='random',
                      random_state=TSNE_SEED).fit_transform(rows)
        kinds = np.array(modality)
        for name in sorted(set(modality)):
            axis.scatter(*places[kinds == name].T, s=6, label=name, color=COLORS.get(name))
        axis.set(title=title, xticks=[], yticks=[])
    axes[0][0].legend(markerscale=2, fontsize=8, loc='best')
    temporary = path.with_name(f'.{path.stem}-{os.getpid()}.png')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(temporary, dpi=100, metadata={'Software': None})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        pyplot.close(figure)


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the scores as lines of text."""
    first = results[0]
    lines = [f'chance {100 * first["chance"]:.1f} %, {THUMBNAIL}x{THUMBNAIL} pixels '
             f'{100 * first["pixels"]["accuracy"]:.1f} % (silhouette '
             f'{first["pixels"]["silhouette"]:.2f}); {sum(first["pairs"].values())} pairs',
             f'{"checkpoint":32}{"step":>7}  {"LoRA":6}{"of":6}{"accuracy":>9}{"silhouette":>12}'
             f'{"own caption":>13}']
    for result in results:
        for row in result['rows']:
            own = row.get('own_caption_first')
            found = f'{100 * own:11.1f} %' if own is not None else ''
            lines.append(f'{result["checkpoint"][-31:]:32}{result["step"]:7}  {row["lora"]:6}'
                         f'{row["embedding"]:6}{100 * row["accuracy"]:7.1f} %'
                         f'{row["silhouette"]:12.2f}{found:>13}')
    return '\n'.join(lines)


def _parser() -> Arguments:
    parser = Arguments(prog='rgbx_probe_clip',
                       description='Measure how well MA-CLIP tells modalities apart, on data.test.')
    parser.add_argument('checkpoints', nargs='+', type=Path, metavar='CHECKPOINT',
                        help='of rgbx_pretrain_clip or rgbx_train; all see the pairs of the last, '
                             'so its start may come before it')
    parser.add_argument('--out', type=Path, required=True, metavar='PNG',
                        help='the t-SNE picture, a panel for each; the scores beside it as .json')
    parser.add_argument('--set', action='append', default=[], metavar='key=value',
                        help='a setting that wins over the last checkpoint, such as data.cache=…; '
                             'may be repeated')
    return parser


def _main() -> None:
    args = _parser().parse_args()
    if args.out.suffix != '.png':
        raise RgbxSegError(f'--out {args.out}: expected a name that ends in .png; correct it.')
    config = load_checkpoint(args.checkpoints[-1]).config
    config = parse_config(override(config_to_dict(config), args.set), str(args.checkpoints[-1]))
    views, results, panels = held_out(config), [], []
    for path in args.checkpoints:
        result, rows = probe_checkpoint(path, config, views)
        panels.append((f'step {result["step"]}', rows, views.modality.tolist()))
        results.append(result)
    draw(args.out, panels)
    text = args.out.with_suffix('.json')
    temporary = text.with_name(f'.{text.name}-{os.getpid()}')
    temporary.write_text(json.dumps(results, indent=1) + '\n', encoding='utf-8')
    os.replace(temporary, text)
    print(table(results))


def main() -> int:
    """Run the command `rgbx_probe_clip`."""
    return run_command(_main)


if __name__ == '__main__':
    raise SystemExit(main())
