# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Which backend runs a bundle on this machine, and in which precision.

By what the GPU and the processor are, not by what can be imported: pip would install
TensorRT-RTX on a Jetson Orin, for which it has no kernels.
"""

from __future__ import annotations

from dataclasses import replace

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.camera_size import camera_form, race
from rgbx_seg_ros.engine import (
    BACKENDS,
    BackendMissing,
    BackendUnavailable,
    Engine,
    EngineInfo,
    Model,
    Options,
)
from rgbx_seg_ros.machine import Machine, this_machine
from rgbx_seg_ros.manifest import MODEL_FILE, Manifest, Variant, check_variant

ON_GPU = ('tensorrt', 'tensorrt_rtx', 'onnxruntime_cuda')
# Compute capabilities that TensorRT-RTX 1.7 builds for; 8.7 (Orin) and 9.0 (Hopper) are not.
RTX_CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
LEAST_LABELS = 0.998  # share of labels as in fp32 from which a lower precision is a default
MOST_LOSS = 0.005  # of mIoU, in 0..1
# Precisions that a backend makes of the bundle's own graphs itself, if asked to by name.
OWN_PRECISIONS = {'torch': ('fp16', 'bf16'), 'openvino': ('bf16',)}
# What `auto` prefers, the first that the bundle has and the processor is fast in.
PREFERRED = {'tensorrt': ('fp16',), 'tensorrt_rtx': ('fp16',), 'onnxruntime_cuda': ('fp16',),
             'torch': ('fp16',), 'openvino': ('int8', 'bf16'), 'onnxruntime': ('int8',)}


def order(machine: Machine) -> list[str]:
    """Return the backends that `auto` tries on a machine, the first first."""
    on_cpu = ['openvino', 'onnxruntime'] if machine.is_x86 else ['onnxruntime']
    if machine.gpu is None:
        return on_cpu
    if machine.gpu.capability in RTX_CAPABILITIES:
        return ['tensorrt', 'tensorrt_rtx', 'onnxruntime_cuda', *on_cpu]
    if machine.gpu.integrated:
        return ['tensorrt', *on_cpu]
    return ['tensorrt', 'onnxruntime_cuda', 'torch', *on_cpu]


def open_first(model: Model, backend: str, precision: str, options: Options,
               machine: Machine | None = None) -> Engine:
    """Return the engine of the named backend, or of the first in `order` that works.

    Raises:
        RgbxSegError: the bundle is at fault, or no backend works; see `engine.open_engine`.

    """
    machine = machine or this_machine()
    options = replace(options, asked_for=backend != 'auto')
    names = order(machine) if backend == 'auto' else [backend]
    reasons, failures = [], []
    for name in names:
        try:
            chosen = choose(model, name, precision, machine)
            engine, note = _fastest(chosen, name, options)
        except BackendUnavailable as error:
            if backend != 'auto':
                raise
            reasons.append(f'{name}: {error}')
            if not isinstance(error, BackendMissing):
                failures.append(reasons[-1])
            continue
        choice, warning = f'{name} was asked for.', ''
        if backend == 'auto':
            choice = ' '.join([f'{name} is the first that works here.', *reasons])
            warning = _warning(engine.info, machine, reasons, failures)
        warning = ' '.join(filter(None, (warning, engine.info.warning)))
        notes = [choice, *(_on_precision(chosen, name) if precision == 'auto' else ()), note]
        engine.info = replace(engine.info, choice=' '.join(filter(None, notes)), warning=warning)
        return engine
    raise RgbxSegError('no backend works on this machine: ' + ' '.join(reasons))


def _on_precision(model: Model, backend: str) -> list[str]:
    """Return sentences on why `auto` took this precision, and which it refused."""
    notes = [f'No default: {reason}' for variant in model.manifest.variants
             if backend in variant.backends and variant.rgb_size is None
             and (reason := why_not_default(variant))]
    if model.variant is not None:
        notes.insert(0, f'Its {model.precision} has {100 * model.variant.labels:.2f} % of the '
                        'labels of fp32.')
    return notes


def _fastest(model: Model, backend: str, options: Options) -> tuple[Engine, str]:
    """Return the engine of a model, or of its form for the camera's size where that is faster."""
    engine = BACKENDS[backend](model, options)
    if options.rgb_size is None or options.engine_file is not None:
        return engine, ''
    form = camera_form(model, backend, options.rgb_size)
    size = f'{options.rgb_size[1]}x{options.rgb_size[0]}'
    if form is None:
        return engine, (f'It has no form for {size} in {model.precision} and {backend}.'
                        if options.rgb_size != model.rgb_size else '')
    try:
        rival = BACKENDS[backend](form, options)
    except BackendUnavailable as error:  # such as too little memory for both at a time
        return engine, f'The form for {size} was left out: {error}'
    plain_ms, rival_ms = race((engine, rival), model, options.rgb_size)
    winner, loser = (rival, engine) if rival_ms < plain_ms else (engine, rival)
    loser.close()
    return winner, (f'With resizing inside, for {size}, it takes {rival_ms:.1f} ms, else '
                    f'{plain_ms:.1f} ms.')


def _warning(info: EngineInfo, machine: Machine, reasons: list[str], failures: list[str]) -> str:
    """Return what the owner of an engine should know that was opened after others, or ''."""
    if info.device == 'cpu' and machine.gpu is not None:
        return ' '.join([f'the GPU {machine.gpu.name} is not used, {info.backend} runs on the '
                         'processor.', *reasons])
    if info.device == 'cpu' and machine.problem:
        return f'{info.backend} runs on the processor: {machine.problem}'
    if failures:
        return ' '.join([f'{info.backend} runs in place of what failed.', *failures])
    return ''


def choose(model: Model, backend: str, precision: str, machine: Machine) -> Model:
    """Return the form of a model that a backend is to run, its files checked.

    Raises:
        BackendMissing: the bundle has no form of this precision for the backend.
        RgbxSegError: it has a damaged one.

    """
    if backend == 'dummy':
        return model
    usable = [variant for variant in model.manifest.variants if backend in variant.backends
              and variant.rgb_size is None]
    if precision == 'auto':
        allowed = [variant for variant in usable if not why_not_default(variant)
                   and (backend in ON_GPU or (backend == 'torch' and machine.gpu is not None)
                        or variant.precision in machine.precisions)]
        variant = next((variant for name in PREFERRED.get(backend, ()) for variant in allowed
                        if variant.precision == name), None)
    else:
        variant = next((own for own in usable if own.precision == precision), None)
        if variant is None and precision not in ('fp32', *OWN_PRECISIONS.get(backend, ())):
            raise BackendMissing(_missing(model.manifest, backend, precision))
    if variant is not None:
        check_variant(model.bundle, variant)
        precision = variant.precision
    return replace(model, variant=variant, precision='fp32' if precision == 'auto' else precision)


def why_not_default(variant: Variant) -> str:
    """Return why a form of a model is no default, as a sentence, or an empty text if it may be."""
    if variant.miou_change is not None and variant.miou_change < -MOST_LOSS:
        return (f'{variant.name} loses {-100 * variant.miou_change:.2f} points of mIoU against '
                f'fp32; a default may lose {100 * MOST_LOSS:g}.')
    if variant.labels < LEAST_LABELS:
        return (f'{variant.name} has {100 * variant.labels:.2f} % of the labels of fp32; a default '
                f'has at least {100 * LEAST_LABELS:g} %.')
    return ''


def _missing(manifest: Manifest, backend: str, precision: str) -> str:
    found = ', '.join(f'{own.precision} for {"/".join(own.backends)}' for own in manifest.variants)
    return (f'precision {precision} for {backend}: the bundle {manifest.name} has {MODEL_FILE} in '
            f'fp32{", and " + found if found else " alone"}; make the form with `rgbx_variants`, '
            'or set precision to auto.')
