# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Follows one forward pass operation by operation: multiply-adds by component, and live memory.

Made for the meta device, where nothing is computed and nothing allocated. Each storage has a
number; an operation is a row of what it read and wrote. So a product is known to be a layer's (one
side depends on the images, the other on weights alone), an attention's (both sides do) or neither
(weights by weights, or a resize written as a product with a matrix that no checkpoint holds), and
one whose result reaches no output is dead and left out.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
# the factors of each operation, by position
FACTORS = {
    aten.mm: (0, 1), aten.bmm: (0, 1), aten.addmm: (1, 2), aten.baddbmm: (1, 2),
    aten.mv: (0, 1), aten.dot: (0, 1), aten.addmv: (1, 2), aten.convolution: (0, 1),
    aten._scaled_dot_product_flash_attention_for_cpu: (0, 1, 2),
}
VECTORS = (aten.mv, aten.dot, aten.addmv)
FUSED = aten._scaled_dot_product_flash_attention_for_cpu


class Cost(NamedTuple):
    """What one forward pass costs."""

    layers: dict[str, int]  # multiply-adds of convolutions and linear layers by component
    products: dict[str, int]  # the same with products of two activations, which are attention
    peak_bytes: int  # most memory that tensors other than inputs and weights held at once


class _Operation(NamedTuple):
    read: tuple[int, ...]
    written: tuple[int, ...]
    component: str
    layer: int  # multiply-adds
    attention: int


class FusedAttention(TorchFunctionMode):
    """Send attention to its fused kernel; the meta device would write it out as products."""

    def __torch_function__(self, function: Any, types: Any, args: Sequence[Any] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        """Replace `scaled_dot_product_attention` where the fused kernel takes its arguments."""
        kwargs = dict(kwargs or {})
        if function is not nn.functional.scaled_dot_product_attention:
            return function(*args, **kwargs)
        names = ('query', 'key', 'value', 'attn_mask', 'dropout_p', 'is_causal')
        call = {**dict(zip(names, args, strict=False)), **kwargs}
        grouped = call.pop('enable_gqa', False)
        if grouped or call.get('dropout_p') or call['query'].ndim != 4:
            return function(*args, **kwargs)
        return FUSED(**call)[0]


class _Tracer(TorchDispatchMode):
    """Writes down every operation; storages are known by number, as addresses are used again."""

    def __init__(self, module: nn.Module, inputs: Iterable[Tensor],
                 component: Callable[[], str]) -> None:
        super().__init__()
        self._component = component
        self._numbers: dict[int, int] = {}  # address -> number, of live storages
        self._ends: dict[int, Any] = {}  # number -> what tells of its end
        self._next = itertools.count()
        self._live = self.peak = 0
        self.operations: list[_Operation] = []
        for tensor in itertools.chain(module.parameters(), module.buffers()):
            self._number(tensor, counted=False)
        # numbers of what depends on the weights (of a checkpoint), and of what on the images
        self._weighted = {self._number(tensor) for tensor in module.state_dict().values()}
        self._varying = {self._number(tensor, counted=False) for tensor in inputs}

    def _number(self, tensor: Tensor, counted: bool = True) -> int:
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address not in self._numbers:
            size = storage.nbytes() if counted else 0
            number = self._numbers[address] = next(self._next)
            self._live += size
            self._ends[number] = weakref.ref(storage, lambda _: self._free(address, size))
        return self._numbers[address]

    def _free(self, address: int, size: int) -> None:
        del self._ends[self._numbers.pop(address)]
        self._live -= size

    def numbers(self, tree: Any) -> tuple[int, ...]:
        """Return the numbers of the storages of all tensors in a nest of values."""
        return tuple(self._number(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))

    def __torch_dispatch__(self, function: Any, types: Any, args: Sequence[Any] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        """Run and write down one operation."""
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        read = self.numbers((args, kwargs))
        changed = [args[i] for i, argument in enumerate(function._schema.arguments[:len(args)])
                   if argument.alias_info is not None and argument.alias_info.is_write]
        written = self.numbers((result, changed))
        layer, attention = self._count(function, args, kwargs, result)
        for dependent in (self._weighted, self._varying):
            if not dependent.isdisjoint(read):
                dependent.update(written)
        self.operations.append(_Operation(read, written, self._component(), layer, attention))
        self.peak = max(self.peak, self._live)
        return result

    def _count(self, function: Any, args: Sequence[Any], kwargs: dict[str, Any],
               result: Any) -> tuple[int, int]:
        """Return the multiply-adds of an operation: as a layer, as attention."""
        packet = function._overloadpacket
        if packet not in FACTORS:
            if packet in flop_registry:
                raise NotImplementedError(f'{packet} is a product that profile_trace lacks')
            return 0, 0
        given = (*args, *(kwargs[name] for name in ('query', 'key', 'value') if name in kwargs))
        factors = [given[i] for i in FACTORS[packet]]
        numbers = self.numbers(factors)
        varying = sum(number in self._varying for number in numbers)
        layer = varying == 1 and any(number in self._weighted and number not in self._varying
                                     for number in numbers)
        if packet is FUSED:
            q, k, v = factors
            macs = math.prod(q.shape[:3]) * k.shape[2] * (q.shape[3] + v.shape[3])
        elif packet in VECTORS:
            macs = factors[0].numel()
        else:
            macs = flop_registry[packet](*args, **kwargs, out_val=result) // 2
        return (macs if layer else 0), (macs if varying > 1 else 0)


def trace(module: nn.Module, inputs: Sequence[Any], component: Callable[[str], str | None],
          grad: bool = False) -> Cost:
    """Run `module(*inputs)` and return what it costs.

    component: the component of a submodule by its name, or None if it is of the same one as the
    module around it; grad: keep what a backward pass would need.
    """
    stack: list[str] = []
    with ExitStack() as hooks:
        for name, part in module.named_modules():
            enter = part.register_forward_pre_hook(partial(_enter, stack, component(name)))
            leave = part.register_forward_hook(partial(_leave, stack))
            hooks.callback(enter.remove)
            hooks.callback(leave.remove)
        images = [value for value in inputs if isinstance(value, Tensor)]
        tracer = _Tracer(module, images, lambda: stack[-1] if stack else '')
        with torch.set_grad_enabled(grad), FusedAttention(), tracer:
            output = module(*inputs)
        return _cost(tracer, tracer.numbers(output))


def _enter(stack: list[str], component: str | None, *_: Any) -> None:
    stack.append(component or (stack[-1] if stack else ''))


def _leave(stack: list[str], *_: Any) -> None:
    stack.pop()


def _cost(tracer: _Tracer, outputs: Iterable[int]) -> Cost:
    """Add up the operations that reach an output, walking back from it."""
    needed = set(outputs)
    layers: Counter[str] = Counter()
    products: Counter[str] = Counter()
    for operation in reversed(tracer.operations):
        if needed.isdisjoint(operation.written):
            continue
        needed.update(operation.read)
        layers[operation.component] += operation.layer
        products[operation.component] += operation.layer + operation.attention
    return Cost(dict(layers), dict(products), tracer.peak)
