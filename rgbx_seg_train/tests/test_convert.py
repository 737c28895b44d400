# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_convert`: foreign weights become a checkpoint that trains, scores and exports."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import Stub, small_config
from torch import nn
from transformers import Sam2VisionModel, SegformerConfig, SegformerModel

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import load_bundle
from rgbx_seg_train import convert as convert_module
from rgbx_seg_train import evaluate as evaluate_module
from rgbx_seg_train import export as export_module
from rgbx_seg_train.checkpoint import build_model, load_checkpoint, load_model
from rgbx_seg_train.convert import convert
from rgbx_seg_train.models import FAMILIES, Family, find_config
from rgbx_seg_train.models.family import Part
from rgbx_seg_train.train import train

SMALLER = ('model.options.clip=null', 'model.options.dsrm=null', 'model.options.prompts=0',
           'model.options.depths=[1,1,1,1]')
REPO, COMMIT = 'some/stub', 'c' * 40


class Painted(Stub):
    """The stub with components, as families have them."""

    COMPONENTS = (('eyes', r'first(\..+)?'), ('norm', r'norm(\..+)?'), ('mouth', r'last(\..+)?'))


def part(name, needed=()):
    """Return a part of the stub's: one of its layers, named `theirs.*` in files."""
    def fill(model: nn.Module, state):
        for other in needed:
            state[other]
        return {key.replace('theirs', name): tensor for key, tensor in state.items()}
    return Part(f'the layer {name}', ('model.safetensors', 'pytorch_model.bin'), fill)


@pytest.fixture(autouse=True)
def stub_family(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # samples are kept in runs/cache
    parts = {'eyes': part('first'), 'mouth': part('last'), 'picky': part('last', ['beak'])}
    monkeypatch.setitem(FAMILIES, 'stub', Family(
        type(None), {'tiny': None, 'full': None}, Painted, parts,
        {'full': {'eyes': REPO, 'mouth': f'{REPO}@v1'}}, size=(32, 48)))


def write_eyes(path, **changes):
    torch.manual_seed(1)
    state = {'theirs.weight': torch.randn(8, 6, 3, 3), 'theirs.bias': torch.randn(8)} | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)
    return state


def run(monkeypatch, *args, module=convert_module):
    monkeypatch.setattr(sys, 'argv', [f'rgbx_{module.__name__.split(".")[-1]}', *map(str, args)])
    return module.main()


def test_a_part_is_filled_and_the_rest_is_random_and_told(tmp_path, monkeypatch, capsys):
    state = write_eyes(tmp_path / 'eyes.safetensors')
    assert run(monkeypatch, 'stub:tiny', 'out.safetensors', '--seed', 3,
               '--from', f'eyes={tmp_path}/eyes.safetensors') == 0
    model, checkpoint = load_model(Path('out.safetensors'))
    torch.testing.assert_close(model.first.weight, state['theirs.weight'], rtol=0, atol=0)
    torch.testing.assert_close(model.first.bias, state['theirs.bias'], rtol=0, atol=0)
    torch.manual_seed(3)
    random = build_model(checkpoint.config, 9)
    assert model.last.weight.equal(random.last.weight)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1][:4] == ['eyes', '2', 'eyes.safetensors', '(sha256']
    assert rows[2:4] == [['norm', '5', 'random'], ['mouth', '2', 'random']]
    export = checkpoint.config.export
    assert export.training_data.startswith('weights: eyes from eyes.safetensors (sha256 ')
    assert export.training_data.endswith('; the rest random (seed 3)')
    assert str(tmp_path) not in export.training_data  # the manifest of bundles holds it
    assert 'Apache' not in export.model_license


def test_settings_of_the_user_win(tmp_path):
    convert('stub', 'tiny', tmp_path / 'out.safetensors', {}, overrides=[
        'name=mine', 'data.height=64', 'data.modality=depth', 'export.training_data=none',
        'export.model_license=MIT'])
    config = load_checkpoint(tmp_path / 'out.safetensors').config
    assert (config.name, config.data.height, config.data.width) == ('mine', 64, 48)
    assert config.data.modality == 'depth'
    assert (config.export.training_data, config.export.model_license) == ('none', 'MIT')


def test_random_weights_alone_are_told_and_hang_on_the_seed(tmp_path):
    weights = []
    for name, seed in (('a', 0), ('b', 0), ('c', 1)):
        out = tmp_path / f'{name}.safetensors'
        assert convert('stub', 'tiny', out, {}, seed).random == {'eyes': 2, 'norm': 5, 'mouth': 2}
        weights.append(load_checkpoint(out).weights()['last.weight'])
        export = load_checkpoint(out).config.export
        assert export.training_data == f'weights: random (seed {seed})'
        assert export.model_license == 'Apache-2.0'
    assert weights[0].equal(weights[1]) and not weights[0].equal(weights[2])


def fill_hub_cache(folder, commit=COMMIT, ref='main'):
    """Lay out what `hf download` leaves; return the state of the eyes."""
    repo = folder / 'hub' / f'models--{REPO.replace("/", "--")}'
    (repo / 'refs').mkdir(parents=True, exist_ok=True)
    (repo / 'refs' / ref).write_text(commit)
    return write_eyes(repo / 'snapshots' / commit / 'model.safetensors')


def test_pretrained_takes_the_parts_not_named(tmp_path, monkeypatch, capsys):
    from huggingface_hub import constants
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache' / 'hub'))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    state = fill_hub_cache(tmp_path / 'cache')
    save_file({'theirs.weight': torch.zeros(9, 8, 1, 1), 'theirs.bias': torch.arange(9.0)},
              tmp_path / 'mouth.safetensors')
    assert run(monkeypatch, 'stub', 'out.safetensors', '--pretrained',
               '--from', 'mouth=mouth.safetensors') == 0
    weights = load_checkpoint(Path('out.safetensors')).weights()
    assert weights['first.bias'].equal(state['theirs.bias'])
    assert weights['last.bias'].equal(torch.arange(9.0))
    told = load_checkpoint(Path('out.safetensors')).config.export.training_data
    assert f'eyes from {REPO}@{COMMIT}; mouth from mouth.safetensors' in told
    assert f"today's main: name {REPO}@{COMMIT} to stay with it" in capsys.readouterr().out
    assert run(monkeypatch, 'stub', 'again.safetensors', '--pretrained') == 1  # v1 of the mouth
    assert '`hf download some/stub model.safetensors --revision v1`' in capsys.readouterr().err


def test_the_command_itself_works_offline_from_a_filled_cache(tmp_path):
    """As a user runs it, with the hub's own variables."""
    from rgbx_seg_train.hub import HUB_REVISIONS
    repo, state = 'nvidia/mit-b0', micro_segformer(tmp_path / 'saved')
    snapshot = (tmp_path / 'home/hub' / f'models--{repo.replace("/", "--")}' / 'snapshots'
                / HUB_REVISIONS[repo])
    snapshot.parent.mkdir(parents=True)
    os.rename(tmp_path / 'saved', snapshot)
    environment = {**os.environ, 'HF_HUB_OFFLINE': '1', 'HF_HOME': str(tmp_path / 'home')}
    command = [sys.executable, '-m', 'rgbx_seg_train.convert', 'segrgbx:tiny', 'out.safetensors',
               '--from', f'encoder={repo}', *SMALLER]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    weights = load_checkpoint(Path('out.safetensors')).weights()
    assert weights['stages.0.patch.proj.weight'].equal(state['patch'])
    assert f'{repo}@{HUB_REVISIONS[repo]}' in done.stdout


@pytest.mark.parametrize(('args', 'says'), [
    (['stub:tiny'], 'are required'),
    (['nothing', 'a.safetensors'], 'model family'),
    (['stub:huge', 'a.safetensors'], 'preset of stub'),
    (['stub:tiny', 'a.pth'], 'ends in .safetensors'),
    (['stub:tiny', 'data.height=64', 'a.safetensors'], 'before any key=value'),
    (['stub:tiny', 'a.safetensors', 'data.heigth=64'], 'heigth is an unknown key'),
    (['stub:tiny', 'a.safetensors', 'model.preset=full'], 'only in FAMILY:PRESET'),
    (['stub:tiny', 'a.safetensors', '--from', 'eyes'], 'expected PART=WHERE'),
    (['stub:tiny', 'a.safetensors', '--from', 'eyes=a', '--from', 'eyes=b'], 'each part once'),
    (['stub:tiny', 'a.safetensors', '--from', 'nose=a.pt'], 'expected one of eyes, mouth, picky'),
    (['stub:tiny', 'a.safetensors', '--from', 'eyes=./none'], 'no such file or folder'),
    (['stub:tiny', 'a.safetensors', '--pretrained'], 'expected one of full'),
    (['stub:tiny', 'a.safetensors', '--from', 'mouth=eyes.safetensors'], 'do not fit the model'),
    (['stub:tiny', 'a.safetensors', '--from', 'picky=eyes.safetensors'], 'the layer last'),
    (['stub:tiny', 'a.safetensors', '--from', 'eyes=bad.safetensors'], 'no numbers'),
    (['stub:tiny', 'a.safetensors', '--from', 'eyes=huge.safetensors'], 'no numbers'),
    (['stub:tiny', 'a.safetensors', '--from', 'eyes=more.safetensors'], 'first.scale'),
    (['stub:tiny', 'eyes.safetensors'], 'is no checkpoint of rgbx_seg'),
])
def test_an_error_is_one_sentence_and_writes_nothing(tmp_path, monkeypatch, capsys, args, says):
    write_eyes(tmp_path / 'eyes.safetensors')
    write_eyes(tmp_path / 'bad.safetensors', **{'theirs.bias': torch.full((8,), torch.nan)})
    huge = torch.full((8,), 1e300, dtype=torch.float64)  # of which float32 makes infinity
    write_eyes(tmp_path / 'huge.safetensors', **{'theirs.bias': huge})
    write_eyes(tmp_path / 'more.safetensors', **{'theirs.scale': torch.ones(8)})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert run(monkeypatch, *args) == 1
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count('\n') == 1 and not captured.out
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_converted_checkpoint_becomes_a_bundle_that_tells_where_it_is_from(tmp_path, monkeypatch):
    write_eyes(tmp_path / 'eyes.safetensors')
    assert run(monkeypatch, 'stub:tiny', 'out.safetensors', '--from', 'eyes=eyes.safetensors',
               'data.height=64', 'data.width=96', 'data.test.0.count=1') == 0
    assert run(monkeypatch, 'out.safetensors', 'bundle', module=export_module) == 0
    manifest = load_bundle(tmp_path / 'bundle')
    assert manifest.training_data.startswith('weights: eyes from eyes.safetensors (sha256')
    assert (manifest.name, manifest.height, manifest.width) == ('stub_tiny', 64, 96)


def test_an_older_checkpoint_is_replaced(tmp_path):
    for seed in (0, 1):
        convert('stub', 'tiny', tmp_path / 'out.safetensors', {}, seed)
    told = load_checkpoint(tmp_path / 'out.safetensors').config.export.training_data
    assert told == 'weights: random (seed 1)'


def test_the_list_tells_parts_files_and_pinned_repositories(monkeypatch, capsys):
    assert run(monkeypatch, '--list') == 0
    text = capsys.readouterr().out
    assert all(name in text for name in FAMILIES)
    assert run(monkeypatch, 'stub', '--list') == 0
    text = capsys.readouterr().out
    assert 'the layer first' in text and 'some/stub@main (full)' in text
    assert 'model.safetensors or pytorch_model.bin' in text and 'segrgbx' not in text


# With the real families at their smallest


def micro_segformer(folder, depths=(1, 1, 1, 1)):
    """Save a MiT of the widths of segrgbx:tiny by `transformers`; return one tensor of it."""
    torch.manual_seed(2)
    config = find_config('segrgbx', 'tiny')
    model = SegformerModel(SegformerConfig(
        hidden_sizes=list(config.dims), depths=list(depths),
        num_attention_heads=list(config.heads)))
    model.save_pretrained(folder)
    patch = next(t for name, t in load_file(folder / 'model.safetensors').items()
                 if t.shape == (config.dims[0], 3, 7, 7))
    return {'patch': patch}


def hiera_of_micro(folder):
    """Save a SAM 2.1 encoder of the size of shifnet:micro; return its state."""
    torch.manual_seed(2)
    config = convert_module.build_model(
        small_config(folder, 'model.family=shifnet', 'model.preset=micro'), 9).encoder.config
    state = {f'vision_encoder.{name}': tensor.contiguous()
             for name, tensor in Sam2VisionModel(config).state_dict().items()}
    save_file(state, folder / 'model.safetensors')
    return state


def test_a_converted_family_trains_on_and_scores(tmp_path, monkeypatch, capsys):
    patch = micro_segformer(tmp_path / 'mit')['patch']
    assert run(monkeypatch, 'segrgbx:tiny', 'out.safetensors', '--from', 'encoder=mit',
               'data.height=64', 'data.width=96', 'data.test.0.count=1', *SMALLER) == 0
    assert 'encoder' in capsys.readouterr().out
    assert run(monkeypatch, 'out.safetensors', module=evaluate_module) == 0
    assert 'miou' in capsys.readouterr().out
    config = small_config(tmp_path, 'model.family=segrgbx', *SMALLER,
                          'train.init=out.safetensors', 'train.steps=1', 'train.lr=0',
                          'train.ema=0', 'train.eval_every=1')
    trained = load_checkpoint(train(config)).weights()
    torch.testing.assert_close(trained['stages.0.patch.proj.weight'], patch)


def test_shifnet_takes_a_sam2_trunk_and_keeps_its_adapters_random(tmp_path):
    state = hiera_of_micro(tmp_path)
    converted = convert('shifnet', 'micro', tmp_path / 'out.safetensors',
                        {'trunk': str(tmp_path)})
    assert converted.sources[0].tensors == len(state)
    assert set(converted.random) == {'adapters', 'sacf', 'hpd', 'class_embeddings'}
    model, _ = load_model(tmp_path / 'out.safetensors')
    assert model.encoder.backbone.pos_embed.equal(state['vision_encoder.backbone.pos_embed'])
    assert len(state) + sum(converted.random.values()) == len(model.state_dict())


def test_weights_of_another_size_are_told(tmp_path):
    micro_segformer(tmp_path / 'mit')
    with pytest.raises(RgbxSegError, match=r'^part encoder from .*; .*\.$'):
        convert('segrgbx', 'small', tmp_path / 'out.safetensors',
                {'encoder': str(tmp_path / 'mit')}, overrides=['model.options.clip=null'])
