# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Foreign weights under our names: CLIP's image tower, LLaVA-1.5 as a whole, a LLaMA alone.

Whole checkpoints are accepted, in the names of the hub's files and in those of `transformers`'
later models in memory: what we have no place for (CLIP's text tower, its last layers, heads for
words) is known by name, and any other name is an error. Of a larger vocabulary the first rows are
taken, as rows after LLaMA's own 32,000 stand for marks that no prompt of ours has.
Tensors are cast to the model's precision one by one, while they are copied into it.
`language.weights` leaves reading to `transformers`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.models.family import Part, Published
from rgbx_seg_train.models.foreign import fill

_Names = Mapping[str, tuple[str, ...]]  # foreign name -> ours

# a part of a foreign checkpoint -> how its names begin, the longest spelling first
_VISION = re.compile(r'^(?:model\.)?vision_tower\.(?:vision_model\.)?|^vision_model\.|'
                     r'^(?=embeddings\.|pre_layrnorm\.|encoder\.|post_layernorm\.)')
_PROJECTOR = re.compile(r'^(?:model\.)?multi_modal_projector\.')
_LANGUAGE = re.compile(r'^(?:model\.)?language_model\.(?:model\.)?(?!lm_head\.)|'
                       r'^model\.(?=embed_tokens\.|layers\.|norm\.)|'
                       r'^(?=embed_tokens\.|layers\.|norm\.)')
_UNUSED = re.compile(
    r'(language_model\.)?lm_head\.weight|(model\.)?image_newline|text_model\..+|logit_scale|'
    r'(visual|text)_projection\.weight|.+\.(position_ids|rotary_emb\.inv_freq)')
_UNUSED_VISION = re.compile(r'post_layernorm\.\w+|encoder\.layers\.(\d+)\..+')
_TOWER, _LLM = 'vision.tower.', 'language.llm.'
_WORDS = 'embed_tokens.weight'


def convert_clip(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take CLIP's image tower, up to the last layer that is read."""
    found = _part(state, _VISION)
    layers = len({name.split('.')[2] for name in found if name.startswith('encoder.layers.')})
    if layers != model.config.vision.layers:  # else another layer than the one meant would be read
        raise RgbxSegError(f'CLIP weights: found {layers} layers, expected '
                           f'{model.config.vision.layers}; choose the preset that they are for.')
    names = {name.removeprefix(_TOWER): (name,) for name in model.state_dict()
             if name.startswith(_TOWER)}
    return _fill(model, names, {name: value for name, value in found.items()
                                if not _is_deeper(model, name)}, 'CLIP weights')


def convert_language(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take a LLaMA; LoRA and codebook are not touched."""
    names, found = _llama_names(model), _part(state, _LANGUAGE)
    words = found.get(_WORDS)
    if words is not None:
        found[_WORDS] = words[:model.config.language.vocabulary]
    return _fill(model, names, found, 'LLaMA weights')


def convert_llava(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take tower and language model of LLaVA-1.5, and its projector for every modality.

    A model that reads its language model from a folder (`language.weights`) needs the rest alone.
    """
    parts = (_VISION, _PROJECTOR, _LANGUAGE)
    vision, projector, language = (
        {name: value for name, value in state.items() if pattern.match(name)} for pattern in parts)
    _refuse_unknown(state.keys() - vision.keys() - projector.keys() - language.keys())
    filled = convert_clip(model, vision) | _fill(
        model, _projector_names(model), _part(projector, _PROJECTOR), 'LLaVA projector')
    return filled if model.config.language.weights else filled | convert_language(model, language)


def _llama_names(model: nn.Module) -> _Names:
    """Return LLaMA's names -> ours, which peft has put its own words into."""
    if model.config.language.weights:
        raise RgbxSegError('LLaMA weights: language.weights names the folder that they are read '
                           'from, expected none for a conversion; leave the option or the part '
                           'out.')
    return {re.sub(r'^base_model\.model\.', '', name.removeprefix(_LLM))
            .replace('.base_layer.', '.'): (name,) for name in model.state_dict()
            if name.startswith(_LLM) and '.lora_' not in name}


def _projector_names(model: nn.Module) -> _Names:
    kinds = list(model.to_language)
    return {f'linear_{n}.{kind}': tuple(f'to_language.{name}.{place}.{kind}' for name in kinds)
            for n, place in ((1, 0), (2, 2)) for kind in ('weight', 'bias')}


def _is_deeper(model: nn.Module, name: str) -> bool:
    """Return whether a tensor of the tower lies behind the last layer that is read."""
    found = _UNUSED_VISION.fullmatch(name)
    return found is not None and (
        found[1] is None or int(found[1]) >= max(model.config.vision.depths))


def _part(state: Mapping[str, Tensor], pattern: re.Pattern[str]) -> dict[str, Tensor]:
    """Return the tensors of one part by their names inside it; refuse what has no known name."""
    _refuse_unknown(name for name in state if not pattern.match(name))
    return {pattern.sub('', name): value for name, value in state.items()
            if pattern.match(name) and not _UNUSED.fullmatch(name)}


def _refuse_unknown(names: Iterable[str]) -> None:
    if unknown := sorted(name for name in names if not _UNUSED.fullmatch(name)):
        raise RgbxSegError(f'weights of MASTER: found {unknown[0]!r}, expected only names of CLIP, '
                           'LLaVA or LLaMA; name a file of one of them.')


def _fill(model: nn.Module, names: _Names, found: Mapping[str, Tensor],
          what: str) -> dict[str, Tensor]:
    """Return all that `names` owns of ours; a name that it lacks is left for `fill` to refuse."""
    ours = {own: value for name, value in found.items() for own in names.get(name, (name,))}
    return fill(model, (own for owned in names.values() for own in owned), ours, what)


_FILES = ('model.safetensors', 'pytorch_model.bin')
PARTS: dict[str, Part] = {
    'llava': Part('LLaVA-1.5: image tower, projector (for every modality) and language model',
                  _FILES, convert_llava),
    'clip': Part("CLIP's image tower", _FILES, convert_clip),
    'language': Part('a LLaMA of the sizes of the preset; no LoRA is touched', _FILES,
                     convert_language),
}
PRETRAINED: dict[str, dict[str, str]] = {
    'small': {'clip': 'openai/clip-vit-base-patch16', 'language': 'JackFram/llama-160m'},
    'base': {'clip': 'openai/clip-vit-large-patch14-336',
             'language': 'princeton-nlp/Sheared-LLaMA-1.3B'},
    'full': {'llava': 'llava-hf/llava-1.5-7b-hf'},
}

_ANY, _SIZE = (0, 0), (480, 640)
_ESTIMATE = 'estimate, the paper prints none'
PUBLISHED: dict[str, tuple[Published, ...]] = {
    'full': (
        Published('CLIP, frozen; ours without its last layer', 'components.vision.total', 304.3e6,
                  0.05, _ANY, _ESTIMATE),
        Published('language model, frozen; ours without the head for words',
                  'components.language.total', 6.74e9, 0.02, _ANY, _ESTIMATE),
        Published('V->T of RGB', 'components.to_language_rgb.total', 20.98e6, 0.0, _ANY, _ESTIMATE),
        Published('codebook', 'components.codebook.total', 0.11e6, 0.0, _ANY, _ESTIMATE),
        Published('LoRA', 'components.lora.total', 4.19e6, 0.0, _ANY, _ESTIMATE),
        Published('C_out head', 'components.head.total', 17.8e6, 0.0, _ANY, _ESTIMATE),
        Published('V->D of RGB', 'components.to_decoder_rgb.total', 0.85e6, 0.0, _ANY, _ESTIMATE),
        Published('decoder', 'components.decoder.total', 4e6, 0.2, _ANY, _ESTIMATE),
        Published('trainable', 'params_trainable', 70e6, 0.02, _ANY, _ESTIMATE),
        Published('GMAC of CLIP, both images', 'components.vision.gmac', 360.0, 0.1, _SIZE,
                  _ESTIMATE),
        Published('GMAC of the language model', 'components.language.gmac', 8200.0, 0.05, _SIZE,
                  _ESTIMATE),
        Published('MFNet mIoU in %', 'miou', 62.5, math.nan, _SIZE, 'paper, abstract'),
    ),
}
