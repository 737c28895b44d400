# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Reading the weights of others: files of every kind, folders, and a hub on this machine."""

import argparse
import hashlib
import json
import os
import pickle
import re
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save, save_file

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.hub import HUB_FILES, HUB_REVISIONS, HubId, parse_hub_id
from rgbx_seg_train.weights import read_weights

FILES = ('model.safetensors', 'pytorch_model.bin')
STATE = {'a.weight': torch.arange(6.0).reshape(2, 3), 'a.bias': torch.ones(2)}
COMMIT, OLD = 'a' * 40, 'b' * 40


def same(state):
    return state.keys() == STATE.keys() and all(torch.equal(state[n], STATE[n]) for n in STATE)


def refusal(where, files=FILES):
    with pytest.raises(RgbxSegError) as caught:
        read_weights(str(where), files)
    text = str(caught.value)
    assert '\n' not in text and text.endswith('.')
    return text


class CodeRunner:
    """A pickle of it makes a file when it is read with code allowed."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


# Files


def test_the_three_kinds_of_files_give_the_same_tensors(tmp_path):
    save_file(STATE, tmp_path / 'a.safetensors')
    for name in ('a.pt', 'a.pth', 'a.bin'):
        torch.save(STATE, tmp_path / name)
    torch.save(STATE, tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    for path in tmp_path.iterdir():
        state, origin = read_weights(str(path), FILES)
        assert same(state)
        assert origin == (f'{path.name} '
                          f'(sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:12]})')


@pytest.mark.parametrize('wrap', [
    lambda state: {'model': state},
    lambda state: {'model_state_dict': state, 'epoch': 3, 'loss': 0.5},
    lambda state: {'state_dict': {f'module.{name}': t for name, t in state.items()}},
    lambda state: {'model': {'state_dict': state}},
    lambda state: {f'_orig_mod.{name}': t for name, t in state.items()},
    lambda state: {f'module._orig_mod.{name}': t for name, t in state.items()},
    lambda state: {name.replace('a.', 'a._orig_mod.'): t for name, t in state.items()},
    lambda state: {**state, 'epoch': 3, 'names': ['x'], 'other': {'lr': 0.1}},
    lambda state: {name: torch.nn.Parameter(t) for name, t in state.items()},
])
def test_what_training_wraps_around_weights_is_taken_off(tmp_path, wrap):
    torch.save(wrap(STATE), tmp_path / 'a.pt')
    state, _ = read_weights(str(tmp_path / 'a.pt'), FILES)
    assert same(state)
    assert not any(tensor.requires_grad for tensor in state.values())


def test_a_prefix_that_only_some_names_have_stays(tmp_path):
    torch.save({'module.a': torch.ones(1), 'b': torch.ones(1)}, tmp_path / 'a.pt')
    assert set(read_weights(str(tmp_path / 'a.pt'), FILES)[0]) == {'module.a', 'b'}


def test_a_bare_tensor_has_no_name(tmp_path):
    torch.save(torch.ones(3), tmp_path / 'a.pt')
    assert read_weights(str(tmp_path / 'a.pt'), FILES)[0][''].shape == (3,)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize('zipped', [True, False])
def test_a_pickle_that_runs_code_is_refused_unrun(tmp_path, protocol, zipped):
    mark = tmp_path / 'ran'
    torch.save({'a': torch.ones(1), 'b': CodeRunner(mark)}, tmp_path / 'a.pt',
               pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    expected = 'run any code' if protocol == 2 else 'cannot be read'
    assert expected in refusal(tmp_path / 'a.pt')
    assert not mark.exists()
    pickle.loads(pickle.dumps(CodeRunner(mark)))
    assert mark.exists()  # it would have run


@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # of TorchScript itself
def test_a_refused_pickle_is_told_what_is_in_it(tmp_path):
    torch.save({'model': STATE, 'args': argparse.Namespace(lr=1)}, tmp_path / 'a.pt')
    assert 'argparse.Namespace' in refusal(tmp_path / 'a.pt')
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / 'b.pt'))
    assert 'TorchScript' in refusal(tmp_path / 'b.pt')


def test_damaged_files_are_told_in_one_sentence(tmp_path):
    save_file(STATE, tmp_path / 'a.safetensors')
    torch.save(STATE, tmp_path / 'a.pt')
    torch.save(STATE, tmp_path / 'old.pt', _use_new_zipfile_serialization=False)
    for path in list(tmp_path.iterdir()):
        whole = path.read_bytes()
        for share in (0, 0.3, 0.6, 0.97):
            path.write_bytes(whole[:int(share * len(whole))])
            assert 'cannot be read' in refusal(path)
    (tmp_path / 'page.bin').write_text('<html>Not found</html>')
    assert 'damaged or not a file of torch.save' in refusal(tmp_path / 'page.bin')
    (tmp_path / 'lfs.bin').write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\n')
    assert 'git lfs pull' in refusal(tmp_path / 'lfs.bin')


def test_changed_bytes_give_tensors_or_one_sentence(tmp_path):
    torch.save(STATE, tmp_path / 'a.pt')
    whole, generator = (tmp_path / 'a.pt').read_bytes(), torch.Generator().manual_seed(0)
    for _ in range(150):
        spoiled = bytearray(whole)
        for place in torch.randint(len(whole), (4,), generator=generator).tolist():
            spoiled[place] ^= 1 + place % 255
        (tmp_path / 'b.pt').write_bytes(spoiled)
        try:
            state, _ = read_weights(str(tmp_path / 'b.pt'), FILES)
            assert all(tensor.sum() is not None for tensor in state.values())
        except RgbxSegError as error:
            assert '\n' not in str(error)


def test_a_file_larger_inside_than_outside_is_refused(tmp_path):
    torch.save({'a': torch.zeros(1 << 20)}, tmp_path / 'a.pt')
    with zipfile.ZipFile(tmp_path / 'a.pt') as source, \
            zipfile.ZipFile(tmp_path / 'b.pt', 'w', zipfile.ZIP_DEFLATED) as packed:
        for item in source.infolist():
            packed.writestr(item.filename, source.read(item))
    assert 'compressed' in refusal(tmp_path / 'b.pt')
    torch.save({'a': torch.ones(1).expand(1 << 40)}, tmp_path / 'c.pt')
    assert 'claims more values' in refusal(tmp_path / 'c.pt')


def test_a_file_without_tensors_is_refused(tmp_path):
    endless = {}
    endless['model'] = endless
    for data in ({'epoch': 1}, {}, [torch.ones(1)], 3, endless):
        torch.save(data, tmp_path / 'a.pt')
        assert 'no tensors' in refusal(tmp_path / 'a.pt')


def test_only_known_suffixes_are_read(tmp_path):
    torch.save(STATE, tmp_path / 'a.ckpt')
    assert '.safetensors, .pt, .pth, .bin' in refusal(tmp_path / 'a.ckpt')


# Folders


def test_the_first_of_the_files_in_a_folder_wins(tmp_path):
    torch.save({'other': torch.ones(1)}, tmp_path / 'pytorch_model.bin')
    assert set(read_weights(str(tmp_path), FILES)[0]) == {'other'}
    save_file(STATE, tmp_path / 'model.safetensors')
    state, origin = read_weights(str(tmp_path), FILES)
    assert same(state)
    assert origin.startswith(f'{tmp_path.name}/model.safetensors (sha256 ')
    assert str(tmp_path) not in origin  # it goes into bundles


def test_a_folder_without_the_files_names_them(tmp_path):
    assert 'model.safetensors or pytorch_model.bin' in refusal(tmp_path)


def write_shards(folder, **changes):
    for number, (name, tensor) in enumerate(STATE.items()):
        save_file({name: tensor}, folder / f'model-{number}.safetensors')
    index = {name: f'model-{number}.safetensors' for number, name in enumerate(STATE)} | changes
    (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': index}))


def test_shards_are_joined(tmp_path):
    write_shards(tmp_path)
    assert same(read_weights(str(tmp_path), FILES)[0])


@pytest.mark.parametrize('shard', ['../a.safetensors', '/etc/a.safetensors', 'b/a.bin', 'x.py', 3])
def test_shards_lie_beside_their_index(tmp_path, shard):
    save_file(STATE, tmp_path / 'a.safetensors')
    (tmp_path / 'in').mkdir()
    write_shards(tmp_path / 'in', more=shard)
    assert 'index.json' in refusal(tmp_path / 'in')


def test_a_missing_shard_and_a_broken_index_are_told(tmp_path):
    write_shards(tmp_path)
    (tmp_path / 'model-1.safetensors').unlink()
    assert 'model-1.safetensors is missing' in refusal(tmp_path)
    for text in ('', '[]', '{"weight_map": 3}', '{'):
        (tmp_path / 'model.safetensors.index.json').write_text(text)
        assert 'index.json is damaged' in refusal(tmp_path)


# The hub


@pytest.mark.parametrize('where', ['./a/b', '/a/b', '~/a/b', 'a/b.pt', 'a/b.safetensors', 'a',
                                   'a/b/c', 'a/../b', 'a/b@', 'a b/c', 'a/b@../c', 'a\\b',
                                   'a/--b', 'ä/ö', '~nobody_here/a', f'a/{"b" * 200}'])
def test_what_looks_like_a_path_is_not_asked_of_the_hub(where):
    assert parse_hub_id(where) is None
    assert 'no such file or folder' in refusal(where)


def test_hub_ids_take_the_pinned_commit_or_the_one_named():
    assert parse_hub_id('nvidia/mit-b2') == HubId('nvidia/mit-b2', HUB_REVISIONS['nvidia/mit-b2'])
    assert parse_hub_id('nvidia/mit-b2@main') == HubId('nvidia/mit-b2', 'main')
    assert parse_hub_id('some/model') == HubId('some/model', 'main')
    assert parse_hub_id('some/model@refs/pr/1') == HubId('some/model', 'refs/pr/1')
    assert all(re.fullmatch('[0-9a-f]{40}', commit) for commit in HUB_REVISIONS.values())
    assert set(HUB_FILES) <= set(HUB_REVISIONS)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache; the hub is out of reach."""
    folder = tmp_path / 'cache'
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(folder))
    use_endpoint(monkeypatch, 'http://127.0.0.1:1')
    return folder


def use_endpoint(monkeypatch, url):
    monkeypatch.setattr(constants, 'ENDPOINT', url)
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE',
                        url + '/{repo_id}/resolve/{revision}/{filename}')


def write_cache(cache, repo, commit, name, data, ref='main'):
    """Put a file where huggingface_hub keeps it: a link to a blob named by its hash."""
    folder = cache / f'models--{repo.replace("/", "--")}'
    blob = folder / 'blobs' / hashlib.sha256(data).hexdigest()
    link = folder / 'snapshots' / commit / name
    for path in (blob, link, folder / 'refs' / ref):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    link.symlink_to(os.path.relpath(blob, link.parent))
    (folder / 'refs' / ref).write_text(commit)


@pytest.mark.parametrize('offline', [True, False])
def test_a_filled_cache_needs_no_network(cache, monkeypatch, offline):
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', offline)
    pin = HUB_REVISIONS['nvidia/mit-b2']
    write_cache(cache, 'nvidia/mit-b2', pin, 'model.safetensors', save(STATE))
    state, origin = read_weights('nvidia/mit-b2', FILES)
    assert same(state) and origin == f'nvidia/mit-b2@{pin}'
    write_cache(cache, 'some/model', COMMIT, 'pytorch_model.bin', b'')
    torch.save(STATE, cache / 'models--some--model/snapshots' / COMMIT / 'pytorch_model.bin')
    for where in ('some/model', 'some/model@main', f'some/model@{COMMIT}'):
        state, origin = read_weights(where, FILES)
        assert same(state) and origin == f'some/model@{COMMIT}'


def test_without_network_one_sentence_comes_at_once(cache):
    began = time.monotonic()
    text = refusal('openai/clip-vit-base-patch16')
    assert time.monotonic() - began < 2
    pin = HUB_REVISIONS['openai/clip-vit-base-patch16']
    assert (f'`hf download openai/clip-vit-base-patch16 pytorch_model.bin --revision {pin}`'
            in text)
    assert '`hf download some/model model.safetensors --revision v2`' in refusal('some/model@v2')


def test_another_commit_in_the_cache_is_told_and_not_taken(cache):
    write_cache(cache, 'nvidia/mit-b2', OLD, 'pytorch_model.bin', b'')
    assert 'nvidia/mit-b2@main, which is in the cache' in refusal('nvidia/mit-b2')


def test_a_path_that_is_there_wins_over_the_hub(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'some/model').mkdir(parents=True)
    save_file(STATE, tmp_path / 'some/model/model.safetensors')
    assert read_weights('some/model', FILES)[1].startswith('model/model.safetensors')


class Hub(BaseHTTPRequestHandler):
    """What the hub answers for `some/model` (main = COMMIT), and for those it does not give."""

    files: dict[str, bytes] = {}
    asked: list[str] = []

    def do_GET(self):  # noqa: N802
        self.asked.append(f'{self.command} {self.path}')
        repo, _, rest = self.path.lstrip('/').partition('/resolve/')
        revision, _, name = rest.partition('/')
        problem = {'closed/model': (403, 'GatedRepo'), 'no/model': (404, 'RepoNotFound')}.get(repo)
        if not problem and revision not in ('main', COMMIT):
            problem = 404, 'RevisionNotFound'
        if not problem and name not in self.files:
            problem = 404, 'EntryNotFound'
        if repo == 'portal/page':
            problem = 200, ''
        body = b'' if problem else self.files[name]
        self.send_response(problem[0] if problem else 200)
        if problem:
            self.send_header('X-Error-Code', problem[1])
        if repo == 'some/model':
            self.send_header('X-Repo-Commit', COMMIT)
        self.send_header('ETag', f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if self.command == 'GET':
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_):
        """Be silent."""


@pytest.fixture
def hub(cache, monkeypatch):
    """A hub on this machine, asked over HTTP as the real one is."""
    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    use_endpoint(monkeypatch, f'http://127.0.0.1:{server.server_port}')
    monkeypatch.setattr(Hub, 'files', {})
    monkeypatch.setattr(Hub, 'asked', [])
    yield Hub
    server.shutdown()
    server.server_close()


def test_a_hub_file_is_fetched_once_and_its_commit_told(hub, tmp_path):
    torch.save(STATE, tmp_path / 'a.bin')
    hub.files['pytorch_model.bin'] = (tmp_path / 'a.bin').read_bytes()
    for where in ('some/model', f'some/model@{COMMIT}'):
        state, origin = read_weights(where, FILES)
        assert same(state) and origin == f'some/model@{COMMIT}'
    assert len([line for line in hub.asked if line.startswith('GET')]) == 1


def test_safetensors_come_before_pickles(hub):
    hub.files.update({'model.safetensors': save(STATE), 'pytorch_model.bin': b''})
    assert same(read_weights('some/model', FILES)[0])
    assert not any('pytorch_model.bin' in line for line in hub.asked)


def test_shards_are_fetched(hub, tmp_path):
    write_shards(tmp_path)
    hub.files.update({path.name: path.read_bytes() for path in tmp_path.iterdir()
                      if path.is_file()})
    assert same(read_weights('some/model', FILES)[0])


@pytest.mark.parametrize(('where', 'says'), [
    ('closed/model', 'hf auth login'),
    ('no/model', 'neither a path here nor a public repository'),
    ('some/model@v9', 'no revision v9'),
    ('some/model', 'holds no model.safetensors or pytorch_model.bin at revision main'),
    ('portal/page', 'cannot be reached'),
])
def test_what_the_hub_does_not_give_is_told(hub, where, says):
    assert says in refusal(where)


def test_a_home_folder_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    save_file(STATE, Path(tmp_path) / 'a.safetensors')
    assert same(read_weights('~/a.safetensors', FILES)[0])
