# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The RGB-X data sets in miniature, as they are distributed, written by Pillow and NumPy alone.

Each writer returns the training ids that it meant, by the name of the sample.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as Pillow

HEIGHT, WIDTH = 24, 32
# written out by hand, from PASCAL VOC's development kit
VOC = ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128),
       (0, 128, 128), (128, 128, 128), (64, 0, 0))
# in the order of the benchmark's table, ids 1..14
URBANLF = ((168, 198, 168), (198, 0, 0), (202, 154, 198), (0, 0, 0), (100, 198, 198),
           (198, 100, 0), (52, 42, 198), (154, 52, 192), (198, 0, 168), (0, 198, 0),
           (198, 186, 90), (108, 107, 161), (156, 200, 26), (158, 179, 202))
Ids = dict[str, np.ndarray]


def save(path: Path, image: np.ndarray, palette: np.ndarray | None = None) -> None:
    """Write an image; with a palette uint8 (N, 3) as one of indices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Pillow.fromarray(image)
    if palette is not None:
        picture.putpalette(palette.astype(np.uint8).tobytes())
    picture.save(path)


def noise(seed: int, *shape: int) -> np.ndarray:
    """Return random uint8 of a shape."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def stripes(values: list[int], height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Return uint8 (height, width) with all of the values in columns, in turn."""
    return np.tile(np.resize(np.array(values, np.uint8), width), (height, 1))


def write_deliver(root: Path, split: str = 'train') -> Ids:
    """Write one scene of each weather and each fault, with all second sensors.

    Labels are RGBA whose red is the id; events have a quarter of the size; depth has 24 bits.
    """
    scenes = [(weather, 'MAP_1_point2') for weather in ('cloud', 'fog', 'night', 'rain', 'sun')]
    scenes += [('rain', f'MAP_3_point4_{case}') for case in (
        'motionblur', 'overexposure', 'underexposure', 'lidarjitter', 'eventlowres')]
    ids = {}
    for number, (weather, place) in enumerate(scenes):
        frame, part = f'{45050 + number:06d}', Path(weather) / split / place
        raw = stripes([*range(1, 26), 0, 255])
        label = np.dstack([raw, noise(number, HEIGHT, WIDTH, 2), np.full_like(raw, 255)])
        save(root / 'img' / part / f'{frame}_rgb_front.png', noise(number, HEIGHT, WIDTH, 3))
        save(root / 'semantic' / part / f'{frame}_semantic_front.png', label)
        save(root / 'depth' / part / f'{frame}_depth_front.png', carla(depth_ramp()))
        save(root / 'hha' / part / f'{frame}_depth_front.png', noise(40 + number, HEIGHT, WIDTH, 3))
        save(root / 'lidar' / part / f'{frame}_lidar_front.png',
             noise(60 + number, HEIGHT, WIDTH, 3))
        save(root / 'event' / part / f'{frame}_event_front.png',
             noise(80 + number, HEIGHT // 4, WIDTH // 4, 3))
        ids[f'{part}/{frame}'] = np.where(np.isin(raw, (0, 255)), 255, raw - 1)
    return ids


def depth_ramp() -> np.ndarray:
    """Return meters (HEIGHT, WIDTH), 1..60 from left to right."""
    return np.tile(np.linspace(1, 60, WIDTH), (HEIGHT, 1))


def carla(depth: np.ndarray) -> np.ndarray:
    """Return depth in meters as the simulator writes it: RGBA, 24 bits up to 1 km, red lowest."""
    counts = np.round(depth / 1000 * (2**24 - 1)).astype(np.uint32)
    return np.dstack([counts & 255, counts >> 8 & 255, counts >> 16,
                      np.full_like(counts, 255)]).astype(np.uint8)


def write_nyu(root: Path, hha: bool = True, depth: np.ndarray | None = None,
              palette: bool = False) -> Ids:
    """Write two samples for training and one for the test; `depth` uint16 (H, W) for all."""
    lists = {'train': ['1', '4'], 'test': ['9']}
    shape = (HEIGHT, WIDTH) if depth is None else depth.shape
    ids = {}
    for split, names in lists.items():
        (root / f'{split}.txt').parent.mkdir(parents=True, exist_ok=True)
        (root / f'{split}.txt').write_text(''.join(f'{name}\n' for name in names))
        for name in names:
            raw = stripes([*range(41)], *shape)
            save(root / 'RGB' / f'{name}.jpg', noise(int(name), *shape, 3))
            save(root / 'Label' / f'{name}.png', raw, noise(0, 256, 3) if palette else None)
            if hha:
                save(root / 'HHA' / f'{name}.png', noise(50 + int(name), *shape, 3))
            if depth is not None:
                save(root / 'Depth' / f'{name}.png', depth)
            ids[name] = np.where(raw == 0, 255, raw - 1)
    return ids


def write_zju(root: Path, order: str = 'rgb', ready: bool = True, indexed: bool = False,
              street: bool = True) -> Ids:
    """Write three scenes for training and one to validate, through four polarizers.

    A `street` has the sky on top and the road at the bottom; else the classes lie in columns.
    """
    ids = {}
    for split, names in {'train': ['1_day', '2_day', '10_dusk'], 'val': ['7_day']}.items():
        for number, name in enumerate(names):
            folder, shape = root / split, (40, 50)
            for angle in (0, 45, 90, 135):
                save(folder / f'{angle}' / f'{name}_image0_{angle}.png',
                     noise(1000 * number + angle, *shape, 3))
            if ready:
                save(folder / 'aolp2' / f'{name}_aolp.png', noise(5000 + number, *shape, 3))
                save(folder / 'dolp2' / f'{name}_dolp.png', noise(6000 + number, *shape, 3))
            raw = stripes([*range(9)], *shape)
            if street:
                raw[:10], raw[-10:] = 6, 4
                raw[:10, :5], raw[-10:, 20:24] = 1, 3  # a building and a car
            colors = np.array(VOC, np.uint8)
            if indexed:
                save(folder / 'label' / f'{name}_image0.png', raw, colors)
            else:
                image = colors[raw]
                save(folder / 'label' / f'{name}_image0.png',
                     image if order == 'rgb' else image[..., ::-1].copy())
            ids[name] = np.where(raw == 0, 255, raw - 1)
    return ids


def write_urbanlf(root: Path, names: tuple[str, str] = ('real', 'Syn'), split: str = 'train',
                  labels: bool = True) -> Ids:
    """Write two real scenes and one rendered, which is larger, with nine views of the 81."""
    ids = {}
    scenes = [(names[0], f'Image{n}', (18, 26)) for n in (2, 10)] + [(names[1], 'Bus1', (20, 28))]
    for number, (part, scene, shape) in enumerate(scenes):
        folder = root / part / split / scene
        for view in range(1, 10):
            save(folder / f'{view}_{view}.png', noise(100 * number + view, *shape, 3))
        raw = stripes([*range(1, 15)], *shape)
        if part.lower() == 'syn':
            raw[0] = 255
        own = np.where(raw == 255, 255, raw - 1)
        if labels and part.lower() == 'syn':
            np.save(folder / '5_5_label.npy', raw)
        elif labels:
            save(folder / 'label.png', np.array(URBANLF, np.uint8)[own])
        ids[f'{part.lower()}/{scene}'] = own
    return ids


def write_coco_stuff(root: Path, kind: str = 'train_ids', split: str = 'train') -> Ids:
    """Write two images with labels as COCO-Stuff has them (`raw`), or with training ids."""
    unused = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}  # raw ids of no label image
    own_of = {raw: own for own, raw in enumerate(r for r in range(182) if r not in unused)}
    ids = {}
    for number, name in enumerate(('000000000009', '000000000025')):
        shape = (HEIGHT, 200)
        raw = stripes([*own_of, 255], *shape)
        own = np.vectorize(lambda value: own_of.get(value, 255))(raw).astype(np.uint8)
        save(root / 'images' / f'{split}2017' / f'{name}.jpg', noise(number, *shape, 3))
        folder = root / 'annotations' / f'{split}2017'
        if kind == 'detectron2':
            folder = root / 'annotations_detectron2' / f'{split}2017'
        suffix = '_labelTrainIds' if kind == 'train_ids' else ''
        save(folder / f'{name}{suffix}.png', raw if kind == 'raw' else own)
        ids[name] = own
    return ids
