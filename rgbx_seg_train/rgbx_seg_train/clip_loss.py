# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Equation 1 of SegRGB-X: images near their captions, over the embeddings of all processes."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import log_softmax, normalize


def contrastive_loss(images: Tensor, texts: Tensor, captions: Tensor,
                     scale: float) -> tuple[Tensor, Tensor]:
    """Return equation 1 for pairs of embeddings (M, D), and the least value it can have.

    CLIP's symmetric cross entropy, with every text of the same caption (M,) as the target, in equal
    parts: in {S^t, S^t} each is there twice, and videos repeat theirs. The pairs of one caption are
    drawn to the same value, never told apart; for captions that differ the sum is CLIP's own.
    """
    logits = scale * normalize(images, dim=1) @ normalize(texts, dim=1).T
    same = (captions[:, None] == captions[None]).to(logits.dtype)
    target = same / same.sum(1, keepdim=True)  # symmetric: all of a caption share their number
    by_image = -(target * log_softmax(logits, 1)).sum(1).mean()
    by_text = -(target * log_softmax(logits, 0)).sum(0).mean()
    return (by_image + by_text) / 2, same.sum(1).log().mean()


def gather_embeddings(own: Tensor, accelerator: Accelerator) -> Tensor:
    """Return the embeddings (P*M, D) of all processes; gradients flow into this one's own."""
    if accelerator.num_processes == 1:
        return own
    everyone = accelerator.gather(own.detach().contiguous())
    first = accelerator.process_index * len(own)
    return torch.cat([everyone[:first], own, everyone[first + len(own):]])
