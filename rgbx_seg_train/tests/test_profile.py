# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Profiles: against numbers worked out by hand, torch's own counter and profiler, the papers."""

import json
import math
import sys
import time
from functools import lru_cache

import pytest
import torch
from small_runs import Stub
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.memory import resident_mb
from rgbx_seg_train import profile_latency, profile_model
from rgbx_seg_train.models import FAMILIES, find_config
from rgbx_seg_train.models.family import Family, Published
from rgbx_seg_train.profile_latency import measure_latency
from rgbx_seg_train.profile_model import compare, component_finder, profile, read_size, round_like
from rgbx_seg_train.profile_trace import trace

PRESETS = [(family, preset) for family, row in FAMILIES.items() for preset in row.presets]


def model_of(family, preset, **options):
    row = FAMILIES[family]
    with torch.device('meta'):
        return row.build(find_config(family, preset, options), row.n_classes).eval()


class Block(nn.Module):
    """A linear layer each for query, key and value of 5 tokens of width 8, and attention."""

    def __init__(self, fused):
        super().__init__()
        self.qkv, self.fused = nn.Linear(8, 24, bias=False), fused

    def forward(self, x):
        q, k, v = self.qkv(x).view(1, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
        if self.fused:
            x = functional.scaled_dot_product_attention(q, k, v)
        else:
            x = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return x.transpose(1, 2).reshape(1, 5, 8)


class Hand(nn.Module):
    """One of everything; each line of `forward` says what it costs."""

    COMPONENTS = (('conv', r'(conv|grouped)(\..+)?'), ('block', r'block(\..+)?'),
                  ('rest', r'(bank|gate|square)(\..+)?'))

    def __init__(self, fused=True):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.grouped = nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2)
        self.block = Block(fused)
        self.bank = nn.Parameter(torch.ones(3, 5, 8))
        self.gate, self.square = nn.Linear(8, 3), nn.Linear(3, 3)

    def forward(self, rgb, aux):
        x = self.grouped(self.conv(rgb))
        # conv: 8 x 4x6 outputs of 3 x 3x3 = 5184; transposed: 8 x 4x6 inputs by 2 x 2x2 = 1536
        tokens = x.flatten(2)[..., :10].reshape(1, 5, 8) + aux.mean()
        gate = self.gate(tokens.mean(1))  # 8 x 3 = 24
        mixed = torch.einsum('bk,knc->bnc', gate, self.bank)  # 3 x 40 = 120, weights: a layer
        _ = (tokens.transpose(1, 2) @ tokens).softmax(-1) * 2  # dead
        fixed = self.square.weight @ self.square.weight  # weights alone
        resize = torch.ones(5, 5, device=rgb.device)  # of no checkpoint
        y = self.block(tokens + mixed)  # 5 x 8 x 24 = 960; attention 2 heads x 5 x 5 x 8 = 400
        return (resize @ y).sum() * fixed.sum()


@pytest.mark.parametrize('fused', [True, False])
def test_products_are_counted_as_by_hand(fused):
    model, images = Hand(fused).to('meta'), torch.empty(2, 1, 3, 8, 12, device='meta')
    cost = trace(model, tuple(images), component_finder(model))
    assert {name: macs for name, macs in cost.layers.items() if macs} == {
        'conv': 5184 + 1536, 'block': 960, '': 120, 'rest': 24}
    assert cost.products['block'] == 960 + 400
    assert sum(cost.products.values()) - sum(cost.layers.values()) == 400


def test_hooks_and_grad_mode_are_as_before():
    model, images = Hand().to('meta'), torch.empty(2, 1, 3, 8, 12, device='meta')
    trace(model, tuple(images), component_finder(model), grad=True)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert torch.is_grad_enabled()


def test_live_memory_is_as_by_hand():
    class Chain(nn.Module):
        def forward(self, x):
            a = x * 2  # 100 floats, as every tensor here
            b = a.exp()
            del a
            c = b.view(10, 10).sigmoid()
            return c + b.view(10, 10)

    x = torch.empty(100, device='meta')
    assert trace(Chain(), (x,), lambda _: None).peak_bytes == 3 * 400  # b, c and the result
    kept = trace(nn.Sequential(*[nn.Sigmoid()] * 5), (x.requires_grad_(),), lambda _: None, True)
    assert kept.peak_bytes == 5 * 400


@pytest.mark.parametrize('grad', [False, True])
def test_live_memory_is_what_the_profiler_of_torch_sees(grad):
    torch.manual_seed(0)
    layers = [nn.Linear(64, 256), nn.GELU(), nn.LayerNorm(256), nn.Linear(256, 32), nn.Softmax(-1)]
    model, x = nn.Sequential(*layers), torch.rand(500, 64)
    with torch.set_grad_enabled(grad):
        model(x)
        with torch.profiler.profile(profile_memory=True) as profiler:
            result = model(x)
    assert result.requires_grad == grad
    totals, live = [0], 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == '[memory]':
            live += event.nbytes()
            totals.append(live)
    meta = trace(nn.Sequential(*layers).to('meta'), (x.to('meta'),), lambda _: None, grad)
    assert meta.peak_bytes == pytest.approx(max(totals), rel=0.01)


# Folded, the head multiplies weights; antialiased, the resize is a product: torch counts both.
PLAIN = {'segrgbx': ('tiny', {'head_folded': False, 'clip': {'resize': 'bilinear'}}),
         'shifnet': ('micro', {})}


@lru_cache
def plain_profile(family):
    preset, options = PLAIN[family]
    return profile(family, preset, options, (96, 64))


@pytest.mark.parametrize('family', PLAIN)
def test_the_sum_is_that_of_the_counter_of_torch(family):
    preset, options = PLAIN[family]
    merged = model_of(family, preset, **options).merge('thermal')
    dead = []

    def add(module, args, output):  # transformers multiplies heads by heads, and nobody reads it
        batch, height, width, _ = args[0].shape
        dead.append(batch * height * width * module.num_attention_heads * module.dim_out)

    hooks = [part.register_forward_hook(add) for part in merged.modules()
             if type(part).__name__ == 'Sam2MultiScaleAttention']
    with FlopCounterMode(display=False) as counter:
        merged(*torch.empty(2, 1, 3, 96, 64, device='meta'))
    for hook in hooks:
        hook.remove()
    vectors = 0
    if family == 'shifnet':  # products with the mean class embedding, which torch does not count
        positions = sum(96 * 64 // stride**2 for stride in (4, 8, 16, 32))
        vectors = 2 * positions * find_config(family, preset).text_dim
    expected = counter.get_total_flops() / 2 - sum(dead) + vectors
    assert bool(dead) == (family == 'shifnet')
    assert 1e9 * plain_profile(family)['gmac_all'] == pytest.approx(expected)


@pytest.mark.parametrize('family', PLAIN)
def test_merging_takes_away_the_pool_and_nothing_else(family):
    result, model = plain_profile(family), model_of(family, PLAIN[family][0], **PLAIN[family][1])
    pair = torch.empty(2, 1, 3, 96, 64, device='meta')
    cost = trace(model, (*pair, ['thermal']), component_finder(model))
    assert cost.layers.pop('lora', 0) == cost.products.pop('lora', 0)
    for name, part in result['components'].items():
        assert part['gmac_layers'] == pytest.approx(cost.layers.get(name, 0) / 1e9), name
        assert part['gmac_all'] == pytest.approx(cost.products.get(name, 0) / 1e9), name
    every = sum(value.numel() for value in model.parameters())
    assert result['params_total'] + result['params_lora'] == every
    check_sums(result)


def check_sums(result):
    parts = result['components']
    assert profile_model.OTHER not in parts
    running = [part for name, part in parts.items() if name != 'lora']
    for key in ('gmac', 'gmac_layers', 'gmac_all'):
        assert sum(part[key] for part in running) == pytest.approx(result[key])
    assert sum(part['total'] for part in running) == result['params_total']
    assert sum(part['trainable'] for part in parts.values()) == result['params_trainable']
    assert 0 < result['activation_mb'] < result['activation_training_mb']
    assert 0 < result['gmac_layers'] < result['gmac_all']


@pytest.mark.parametrize(('family', 'preset'), PRESETS)
def test_every_parameter_is_of_one_component(family, preset):
    model = model_of(family, preset)
    find = component_finder(model)
    assert [name for name, _ in model.named_parameters() if find(name) is None] == []
    unused = {name for name, _ in model.COMPONENTS} - {find(name)
                                                       for name, _ in model.named_parameters()}
    assert unused <= {'lora', 'clip', 'sam', 'dsrm', 'prompts'}


def test_segrgbx_at_full_size_is_the_published_one():
    result = profile('segrgbx')
    assert result['size'] == [512, 512] and result['n_classes'] == 70
    assert result['params_total'] == pytest.approx(159.40e6, rel=0.01)
    assert result['components']['encoder']['total'] == 24_196_288  # MiT-b2 without its classifier
    assert result['components']['clip'] == pytest.approx(
        {'total': 86_192_640, 'trainable': 0, 'gmac': 35.13, 'gmac_layers': 33.70,
         'gmac_all': 35.13}, rel=1e-3)  # two images; 16.87 GMAC is ViT-B/16's
    assert result['params_lora'] == 5 * 12 * 2 * (2 * 768 * 8)  # modalities, layers, q and v
    assert 103 <= result['gmac'] <= 115 and 'gmac = gmac_all' in result['gmac_convention']
    assert not [row for row in result['published'] if row['within'] is False]
    check_sums(result)


def test_shifnet_at_full_size_is_the_published_one():
    profile_latency._reset_peak('cpu')
    before = resident_mb()
    result = profile('shifnet')
    assert profile_latency._peak_mb('cpu') - before < 300  # its weights alone are 980 MB
    assert result['size'] == [480, 640] and result['n_classes'] == 9
    assert result['params_trainable'] == 32_268_145
    assert result['params_total'] == 244_971_425 and result['params_lora'] == 0
    parts = {name: part['total'] for name, part in result['components'].items()}
    assert parts == {'adapters': 17_859_888, 'trunk': 212_149_296, 'neck': 553_984,
                     'sacf': 10_880_000, 'hpd': 3_528_257}
    assert result['gmac'] == pytest.approx(645, abs=0.5) and result['gmac'] == result['gmac_layers']
    assert result['gmac_all'] == pytest.approx(687, abs=0.5)
    assert not [row for row in result['published'] if row['within'] is False]
    check_sums(result)


def result_of(**values):
    return {'size': [480, 640], 'options': {}, 'gmac': 645.0, 'params_trainable': 32_268_145,
            'components': {'hpd': {'total': 3_528_257}}, 'latency_ms': None, **values}


@pytest.mark.parametrize(('key', 'value', 'tolerance', 'within'), [
    ('gmac', 626.0, 0.05, True), ('gmac', 626.0, 0.02, False), ('gmac', 626.0, math.nan, None),
    ('params_trainable', 32.27e6, 0.0, True), ('params_trainable', 32.26e6, 0.0, False),
    ('components.hpd.total', 3.5e6, 0.0, True), ('components.hpd.total', 3_528_256, 0.0, False),
    ('latency_ms', 123.0, math.nan, None), ('components.none.total', 1.0, 0.1, None),
])
def test_published_figures_are_judged(key, value, tolerance, within):
    (row,) = compare(result_of(), [Published('it', key, value, tolerance, (0, 0), 'paper')])
    assert row['within'] is within and row['comparable']


def test_figures_of_another_size_or_other_options_are_not_judged():
    row = Published('it', 'gmac', 626.0, 0.05, (480, 640), 'paper')
    for other in (result_of(size=[512, 512]), result_of(options={'a': 1})):
        (shown,) = compare(other, [row])
        assert shown['within'] is None and shown['deviation'] is None and not shown['comparable']
        assert shown['ours'] == 645.0


def test_rounding_keeps_the_digits_that_are_printed():
    assert round_like(32_268_145, 32.27e6) == 32.27e6
    assert round_like(3_528_257, 3.5e6) == 3.5e6
    assert round_like(17_859_888, 17_859_888) == 17_859_888
    assert round_like(31.4, 31.51) == 31.4


def run_main(monkeypatch, capsys, *args):
    monkeypatch.setattr(sys, 'argv', ['rgbx_profile', *args])
    code = profile_model.main()
    return code, *capsys.readouterr()


def test_the_command_prints_one_json_object_and_nothing_else(monkeypatch, capsys):
    args = ('segrgbx:tiny', '--size', '33x97', '--classes', '3', 'dsrm.structure=a',
            'drop_path=0.5', '--json')
    code, out, err = run_main(monkeypatch, capsys, *args)
    result = json.loads(out)
    assert code == 0 and not err
    assert result['options'] == {'dsrm': {'structure': 'a'}, 'drop_path': 0.5}
    assert result['latency'] is None and result['n_classes'] == 3 and result['size'] == [33, 97]
    check_sums(result)
    model = model_of('segrgbx', 'tiny', dsrm={'structure': 'a'})
    found = component_finder(model)
    dsrm = sum(value.numel() for name, value in model.named_parameters() if found(name) == 'dsrm')
    assert result['components']['dsrm']['total'] == dsrm


def test_the_command_prints_a_table(monkeypatch, capsys):
    rows = (Published('GFLOPs', 'gmac', 1.0, 0.1, (480, 640), 'paper'),
            Published('parameters', 'params_total', 539, 0.0, (0, 0), 'paper'),
            Published('more', 'params_total', 600, 0.0, (0, 0), 'paper'))
    monkeypatch.setitem(FAMILIES, 'stub', Family(type(None), {'full': None}, Stub,
                                                 published={'full': rows}))
    code, out, err = run_main(monkeypatch, capsys, 'stub', '--size', '32x64')
    assert code == 0 and not err
    lines = out.splitlines()
    assert lines[0].startswith('stub:full, 32x64, 9 classes')
    # 6 x 8 x 9 + 8, two of 8, 8 x 9 + 9; the convolutions on 32 x 64 positions
    assert [line.split() for line in lines if line.startswith(('first', 'norm', 'last', 'total'))
            ] == [['first', '440', '440', '0.00', '0.00'], ['norm', '16', '16', '0.00', '0.00'],
                  ['last', '81', '81', '0.00', '0.00'], ['total', '537', '537', '0.00', '0.00']]
    verdicts = [line.split('  ')[-1].strip() for line in lines if '(paper)' in line]
    assert verdicts == ['not comparable: at 480x640', 'NO', 'NO']


@pytest.mark.parametrize(('args', 'expected'), [
    (['segrgbx', '--size', '480'], "--size is '480'; expected HEIGHTxWIDTH"),
    (['segrgbx', '--size', '480x16'], 'each 32 to'),
    (['segrgbx', '--size', '1e3x640'], 'expected HEIGHTxWIDTH'),
    (['segrgbx:huge'], "preset of segrgbx: found 'huge', expected one of tiny"),
    (['segnext'], "found 'segnext', expected one of segrgbx"),
    (['segrgbx:tiny', 'dsrm.structure=z'], "structure is 'z'"),
    (['segrgbx:tiny', 'dsrm'], 'expected key=value'),
    (['segrgbx:tiny', 'depth=3'], 'depth is an unknown key'),
    (['segrgbx:tiny', '--classes', '0'], '--classes is 0; expected 1 to 255'),
    (['segrgbx:tiny', '--repeat', '0'], '--repeat is 0'),
    (['segrgbx:tiny', '--device', 'tpu'], 'tpu'),
    ([], '--help'),
])
def test_bad_arguments_are_one_sentence(monkeypatch, capsys, args, expected):
    code, out, err = run_main(monkeypatch, capsys, *args)
    assert code == 1 and not out
    assert err.startswith('rgbx_profile: error: ') and err.count('\n') == 1
    assert expected in err


def test_sizes_are_height_and_width():
    assert read_size('480x640') == (480, 640)
    with pytest.raises(RgbxSegError, match='99999x32'):
        read_size('99999x32')


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_missing_gpu_is_told_before_anything_is_built(monkeypatch, capsys):
    code, out, err = run_main(monkeypatch, capsys, 'shifnet', '--latency', '--device', 'cuda')
    assert code == 1 and not out and 'torch finds no CUDA device' in err


class Picky(Stub):
    """Works in float32 only."""

    def forward(self, *args, **kwargs):
        if torch.is_autocast_enabled('cpu'):
            raise ValueError('this network\nis float32')
        return super().forward(*args, **kwargs)


def test_latency_tells_what_does_not_work(monkeypatch, capsys):
    modes = {name: mode for name, mode in profile_latency.MODES.items() if not mode.compiled}
    monkeypatch.setattr(profile_latency, 'ON_CPU', tuple(modes)[:2])
    row = Published('latency', 'latency_ms', 10.0, math.nan, (0, 0), 'paper')
    monkeypatch.setitem(FAMILIES, 'picky', Family(type(None), {'full': None}, Picky,
                                                  published={'full': (row,)}, size=(64, 96)))
    code, out, _ = run_main(monkeypatch, capsys, 'picky', '--latency', '--repeat', '5', '--json')
    result = json.loads(out)
    modes = result['latency']['modes']
    assert code == 0
    assert modes['autocast bfloat16'] == {'error': 'ValueError: this network'}
    eager = modes['eager float32']
    assert 0 < eager['median_ms'] <= eager['p95_ms'] and eager['peak_mb'] > 10
    assert result['latency_ms'] == eager['median_ms'] == result['published'][0]['ours']
    assert result['latency']['repeat'] == 5
    assert result['latency']['threads'] == torch.get_num_threads()
    _, out, _ = run_main(monkeypatch, capsys, 'picky', '--latency', '--repeat', '2')
    assert 'autocast bfloat16: does not work here (ValueError: this network)' in out


def test_latency_is_of_each_run_after_the_warm_up_of_the_network_that_was_built(monkeypatch):
    sizes = []

    class Slow(nn.Module):
        def forward(self, rgb, aux):
            sizes.append((tuple(rgb.shape), tuple(aux.shape)))
            time.sleep(0.2 if len(sizes) <= profile_latency.WARM_UP else 0.02)
            return rgb

    monkeypatch.setattr(profile_latency, 'ON_CPU', ('eager float32',))
    mode = measure_latency(Slow, (32, 48), 'cpu', 3)['modes']['eager float32']
    assert sizes == [((1, 3, 32, 48), (1, 3, 32, 48))] * (profile_latency.WARM_UP + 3)
    assert mode['median_ms'] >= 20 and mode['p95_ms'] >= mode['median_ms']
    assert mode['warm_up_s'] >= 0.2 * profile_latency.WARM_UP