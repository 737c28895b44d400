# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_caption CONFIG OUT.jsonl --model WHERE`: has an image-to-text model describe RGB images.

The paper asks LLaMA-Adapter; any model will do that `transformers` loads for images and text and
that lies on this machine. Captions are remembered by the hash of the image, the model and the
prompt: a run that was cut off goes on, and an image that two data sets share is asked about once.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_train.captions import (
    MAX_CHARACTERS,
    clean,
    read_lines_of_json,
    refuse_confusion,
    source_name,
)
from rgbx_seg_train.config import Config, Source
from rgbx_seg_train.config_file import load_config
from rgbx_seg_train.data.sample import CorruptImage, Image, Samples
from rgbx_seg_train.data.sources import open_all
from rgbx_seg_train.hub import load_pretrained

PROMPT = 'Describe the image at a high level in 20 words.'  # the paper's
BATCH = 8  # images
SAVE_EVERY = 8  # batches
MAX_TOKENS = 60
KEYS = ('source', 'name', 'sha256', 'model', 'prompt', 'caption')

Describe = Callable[[Sequence[Image]], Sequence[str]]


def load_describer(where: str, prompt: str) -> Describe:
    """Return what captions images, by the model of a folder or of the hub's cache.

    Raises:
        RgbxSegError: not on this machine, or no model that makes texts of images.

    """
    processor, model = load_pretrained(where, 'one that makes texts of images', AutoProcessor,
                                       AutoModelForImageTextToText)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    model.eval().to(device)

    @torch.inference_mode()
    def describe(images: Sequence[Image]) -> Sequence[str]:
        inputs = _inputs(processor, images, prompt)
        asked = inputs['input_ids'].shape[1] if 'input_ids' in inputs else 0
        made = model.generate(**inputs.to(device), max_new_tokens=MAX_TOKENS, do_sample=False)
        if asked and torch.equal(made[:, :asked].cpu(), inputs['input_ids'].cpu()):
            made = made[:, asked:]  # such models repeat the question
        texts = processor.batch_decode(made, skip_special_tokens=True)
        return [clean(text).removeprefix(prompt).strip() for text in texts]

    return describe


def _inputs(processor: Any, images: Sequence[Image], prompt: str) -> Any:
    """Return a batch for the model: as a chat where it is made for that, else image and text."""
    pictures = [np.ascontiguousarray(image) for image in images]
    if getattr(processor, 'chat_template', None):
        talk = [{'role': 'user', 'content': [{'type': 'image'}, {'type': 'text', 'text': prompt}]}]
        text = processor.apply_chat_template(talk, add_generation_prompt=True)
        return processor(images=pictures, text=[text] * len(pictures), padding=True,
                         return_tensors='pt')
    if not prompt:
        return processor(images=pictures, return_tensors='pt')
    return processor(images=pictures, text=[prompt] * len(pictures), padding=True,
                     return_tensors='pt')


class CaptionFile:
    """A file of captions in the making: what it holds of one model is not asked again.

    Lines about other images, and by other hands, are kept unless this model describes the image.
    """

    def __init__(self, path: Path, model: str, prompt: str) -> None:
        """Read what is there."""
        self._path, self._model, self._prompt = path, model, prompt
        self._lines = {(line.get('source', ''), line.get('name')): dict(line)
                       for line in (read_lines_of_json(path) if path.exists() else [])}
        self.known = {line['sha256']: line['caption'] for line in self._lines.values()
                      if (line.get('model'), line.get('prompt')) == (model, prompt)
                      and 'sha256' in line and 'caption' in line}

    def put(self, digest: str, places: Sequence[tuple[str, str]]) -> None:
        """Give a known caption to the images (source, name) of a hash."""
        for source, name in places:
            values = source, name, digest, self._model, self._prompt, self.known[digest]
            self._lines[source, name] = dict(zip(KEYS, values, strict=True))

    def save(self) -> None:
        """Write the file whole or not at all."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f'.{self._path.name}-{os.getpid()}')
        try:
            with temporary.open('w', encoding='utf-8') as file:
                for line in self._lines.values():
                    file.write(json.dumps(line, ensure_ascii=False) + '\n')
            os.replace(temporary, self._path)
        finally:
            temporary.unlink(missing_ok=True)


def caption_images(config: Config, out: Path, model: str, prompt: str = PROMPT,
                   load: Callable[[str, str], Describe] = load_describer,
                   batch: int = BATCH) -> tuple[int, int]:
    """Write the captions of all RGB images of data.train and data.test; return (made, known).

    Raises:
        RgbxSegError: no images, two folders of one name, the model cannot be had, or says nothing.

    """
    sources = [source for source in (*config.data.train, *config.data.test)
               if source.kind != 'synthetic']
    if not sources:
        raise RgbxSegError('data.train and data.test name no images in files; expected a data set; '
                           'rendered scenes need no captions.')
    refuse_confusion(sources)
    sets = open_all(sources, config.data, labeled=False)  # a wrong root is told before hours pass
    file, describe = CaptionFile(out, model, prompt), None
    waiting: dict[str, tuple[Image, list[tuple[str, str]]]] = {}
    made = met = 0
    for place, rgb in _images(sources, sets):
        met += 1
        digest = image_hash(rgb)
        if digest in file.known:
            file.put(digest, [place])
            continue
        waiting.setdefault(digest, (rgb, []))[1].append(place)
        if len(waiting) == batch:
            describe = describe or load(model, prompt)
            made += _ask(describe, waiting, file)
            if made % (SAVE_EVERY * batch) == 0:
                file.save()
    if waiting:
        describe = describe or load(model, prompt)
        made += _ask(describe, waiting, file)
    file.save()
    return made, met - made


def _ask(describe: Describe, waiting: dict[str, tuple[Image, list[tuple[str, str]]]],
         file: CaptionFile) -> int:
    """Have the waiting images described; return how many there were, and let none wait."""
    texts = describe([image for image, _ in waiting.values()])
    for (digest, (_, places)), text in zip(waiting.items(), texts, strict=True):
        if not text:
            raise RgbxSegError(f'the model says nothing about {places[0][1]}; expected a caption; '
                               'try another prompt or model.')
        file.known[digest] = text[:MAX_CHARACTERS]
        file.put(digest, places)
    count = len(waiting)
    waiting.clear()
    return count


def _images(sources: Sequence[Source], sets: Sequence[Samples]
            ) -> Iterator[tuple[tuple[str, str], Image]]:
    """Yield (source, name) and RGB of every image; a corrupt one is told and left out."""
    for source, samples in zip(sources, sets, strict=True):
        for n in tqdm(range(len(samples)), source_name(source), unit='image', disable=None):
            try:
                sample = samples[n]
            except CorruptImage as error:
                tqdm.write(f'skipped: {error}', sys.stderr)
                continue
            yield (source_name(source), sample.name), np.asarray(sample.rgb)


def image_hash(rgb: Image) -> str:
    """Return the SHA-256 of an image's size and pixels."""
    digest = hashlib.sha256(str(rgb.shape).encode())
    digest.update(np.ascontiguousarray(rgb).tobytes())
    return digest.hexdigest()


def _parser() -> Arguments:
    parser = Arguments(prog='rgbx_caption',
                       description='Describe the RGB images of a configuration, for '
                                   'rgbx_pretrain_clip.')
    parser.add_argument('config', type=Path, help='names the images in data.train and data.test')
    parser.add_argument('out', type=Path, metavar='OUT.jsonl',
                        help='a line for each image; what it holds already is not asked again')
    parser.add_argument('overrides', nargs='*', default=[], metavar='key=value',
                        help='settings that win over the file')
    parser.add_argument('--model', required=True, metavar='WHERE',
                        help='folder, or OWNER/NAME[@REVISION] in the cache of the hub')
    parser.add_argument('--prompt', default=PROMPT,
                        help='what the model is asked; empty for models without questions, such '
                             'as BLIP (default: %(default)s)')
    parser.add_argument('--batch', type=int, default=BATCH, metavar='N',
                        help='images at a time (default: %(default)s)')
    return parser


def _main() -> None:
    args = _parser().parse_args()
    if args.batch < 1:
        raise RgbxSegError(f'--batch is {args.batch}; expected 1 or more; correct it.')
    config = load_config(args.config, args.overrides)
    made, known = caption_images(config, args.out, args.model, args.prompt, batch=args.batch)
    print(f'{args.out}: {made} captions made, {known} images known already')


def main() -> int:
    """Run the command `rgbx_caption`."""
    return run_command(_main)


if __name__ == '__main__':
    raise SystemExit(main())
