# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The language model of LLaVA-1.5 from a folder, in float32, bfloat16 or 4 bits (nf4).

LLaVA's vision tower, its projector and the head for words are passed over. Nothing is asked of any
network. 4 bits are made by bitsandbytes through `transformers`, an optional library.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaModel

from rgbx_seg_ros import RgbxSegError

PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'nf4': torch.bfloat16}
# LLaVA's names, of the hub's files and of later `transformers`, to LLaMA's own
NAMES = {r'^(model\.)?language_model\.(model\.)?': '',
         r'^model\.(?!language_model\.|vision_tower\.|multi_modal_projector\.)': ''}


def load_llama(where: str, config: LlamaConfig, precision: str) -> LlamaModel:
    """Return the language model of a folder of LLaVA-1.5 (or of its LLaMA), all weights read.

    Raises:
        RgbxSegError: no such folder, weights of other sizes or none, or bitsandbytes is missing.

    """
    folder = Path(os.path.expanduser(where))
    if not folder.is_dir():
        raise RgbxSegError(f'language.weights {where}: no such folder; expected that of '
                           'LLaVA-1.5 with its safetensors files; correct the path.')
    options: dict[str, Any] = {}
    if precision == 'nf4':
        options = {'quantization_config': _four_bits(), 'device_map': {'': _device()}}
    try:
        llama, told = LlamaModel.from_pretrained(
            folder, config=config, dtype=PRECISIONS[precision], key_mapping=NAMES,
            local_files_only=True, output_loading_info=True, **options)
    except Exception as error:  # transformers, safetensors and bitsandbytes have their own
        reason = ' '.join(str(error).split())[:120]
        raise RgbxSegError(f'language.weights {where}: cannot be read ({reason}); expected '
                           'LLaVA-1.5 of the sizes of the preset; copy it again, or choose the '
                           'sizes by model.options.language.') from None
    if lacking := sorted(told['missing_keys']):
        raise RgbxSegError(f'language.weights {where}: {len(lacking)} tensors are missing (such '
                           f'as {lacking[0]}); expected LLaVA-1.5 of the sizes of the preset; '
                           'copy it again.')
    return llama


def _four_bits() -> BitsAndBytesConfig:
    """Return how QLoRA packs weights: nf4, its scales packed too, products in bfloat16."""
    if importlib.util.find_spec('bitsandbytes') is None:
        raise RgbxSegError('language.precision is nf4, and bitsandbytes is not installed; '
                           'expected it for weights in 4 bits; install it, or choose bf16.')
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4',
                              bnb_4bit_use_double_quant=True,
                              bnb_4bit_compute_dtype=torch.bfloat16)


def _device() -> str:
    """Return where weights are packed: each process of a training its own GPU."""
    return f'cuda:{os.environ.get("LOCAL_RANK", "0")}' if torch.cuda.is_available() else 'cpu'
