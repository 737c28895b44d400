# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the weights of others: a file, a folder, or a repository of the Hugging Face hub.

No reading runs code: safetensors files hold none, and of pickles only tensors are taken.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.hub import SUFFIXES, HubSearch, parse_hub_id

WRAPPERS = ('model', 'model_state_dict', 'state_dict')
LFS_POINTER = b'version https://git-lfs'
DEPTH = 4  # of wrappers in wrappers

_Find = Callable[[str], 'Path | None']  # file name -> where it lies, if anywhere


def read_weights(where: str, files: Sequence[str]) -> tuple[dict[str, Tensor], str]:
    """Return all tensors by name, and where they came from: a file's hash or a hub commit.

    `where` is a file, a folder or `owner/name[@revision]` on the hub; `files` are the names looked
    for in the latter two, the first that is there wins. Wrappers such as `state_dict` and prefixes
    such as `module.` are taken off; a bare tensor has the name ''. The tensors may be views of the
    file's pages: do not write to them.

    Raises:
        RgbxSegError: nothing there, not readable without running code, or no tensors in it.

    """
    path = Path(os.path.expanduser(where))  # Path's own fails where there is no such user
    if path.is_file():
        return _read(where, [path]), f'{path.name} ({_digest([path])})'
    if path.exists():
        paths = _find(files, lambda name: path / name if (path / name).is_file() else None, where)
        if not paths:
            raise RgbxSegError(f'weights {where}: a folder without {" or ".join(files)}; name the '
                               'file itself, or the folder that holds one of them.')
        return _read(where, paths), f'{path.resolve().name}/{paths[0].name} ({_digest(paths)})'
    hub = parse_hub_id(where)
    if hub is None:
        raise RgbxSegError(f'weights {where}: no such file or folder; expected one, or a hub '
                           'repository as OWNER/NAME[@REVISION]; correct the path.')
    search = HubSearch(hub, files)
    paths = _find(search.names, search.find, where)
    if not paths:
        raise search.failure()
    return _read(where, paths), f'{hub.repo}@{search.commit}'


def _find(files: Sequence[str], find: _Find, where: str) -> list[Path]:
    """Return the first of the files that is there: one path, or those of all its shards."""
    for name in files:
        if (path := find(name)) is not None:
            return [path]
        if (index := find(f'{name}.index.json')) is not None:
            return [_shard(shard, find, where) for shard in _shard_names(index, where)]
    return []


def _shard_names(index: Path, where: str) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding='utf-8'))['weight_map'].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RgbxSegError(f'weights {where}: {index.name} is damaged; expected the weight_map of '
                           'a sharded model; copy it again.') from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(SUFFIXES):
            raise RgbxSegError(f'weights {where}: {index.name} names the shard {str(name)[:60]!r}; '
                               'expected the names of files beside it; copy it again.')
    return names


def _shard(name: str, find: _Find, where: str) -> Path:
    path = find(name)
    if path is None:
        raise RgbxSegError(f'weights {where}: its shard {name} is missing; expected all that the '
                           'index names; copy or fetch it too.')
    return path


def _digest(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open('rb') as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return f'sha256 {digest.hexdigest()[:12]}'


def _read(where: str, paths: Sequence[Path]) -> dict[str, Tensor]:
    state: dict[Any, Any] = {}
    for path in paths:
        data = _load(path)
        if len(paths) == 1:
            return _flatten(where, data)
        state.update(data if isinstance(data, Mapping) else {})
    return _flatten(where, state)


def _load(path: Path) -> Any:
    """Return what a file holds: tensors in containers."""
    if path.suffix not in SUFFIXES:
        raise RgbxSegError(f'weights {path}: the suffix is {path.suffix!r}; expected one of '
                           f'{", ".join(SUFFIXES)}; convert or rename it.')
    with path.open('rb') as file:
        start = file.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise RgbxSegError(f'weights {path}: only a pointer of Git LFS; expected the file it '
                               'stands for; run `git lfs pull` there.')
    if path.suffix != '.safetensors':
        return _load_pickle(path, zipped=start.startswith(b'PK\x03\x04'))
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise RgbxSegError(f'weights {path}: cannot be read ({_first_line(error)}); it is damaged '
                           'or not a safetensors file: copy it again.') from None


def _load_pickle(path: Path, zipped: bool) -> Any:
    if zipped:
        _refuse_compressed(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of pickle protocols
            return torch.load(path, map_location='cpu', weights_only=True, mmap=zipped)
    except Exception as error:  # a damaged pickle can raise anything
        text = str(error)
        reason = re.search(r'WeightsUnpickler error:\s*(\S.*)', text)
        short = reason[1][:80] if reason else _first_line(error)
    if not (found := re.search(r'GLOBAL ([\w.]*\w) |(TorchScript)', text)):
        raise RgbxSegError(f'weights {path}: cannot be read ({short}); it is damaged or not a file '
                           'of torch.save: copy it again.')
    raise RgbxSegError(f'weights {path}: a pickle with {found[1] or found[2]} in it, and reading '
                       'such a file can run any code; expected tensors alone; where you trust it, '
                       'save its tensors as a safetensors file and name that.')


def _refuse_compressed(path: Path) -> None:
    """Refuse a zip file that is larger inside than outside; torch compresses no tensors."""
    try:
        with zipfile.ZipFile(path) as file:
            items = file.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return  # torch says what is wrong
    script = any(item.filename.endswith('/constants.pkl') for item in items)
    if not script and any(item.compress_type != zipfile.ZIP_STORED for item in items):
        raise RgbxSegError(f'weights {path}: a compressed archive; expected a file of torch.save, '
                           'which is not; unpack it and name the file inside.')


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:80]


def _flatten(where: str, data: Any) -> dict[str, Tensor]:
    """Return the tensors of what a file held, by their plain names."""
    for _ in range(DEPTH):
        if isinstance(data, Mapping):
            data = next((data[key] for key in WRAPPERS if isinstance(data.get(key), Mapping)), data)
    entries = data if isinstance(data, Mapping) else {'': data}
    state = {name: tensor.detach() for name, tensor in entries.items()
             if isinstance(name, str) and isinstance(tensor, Tensor)
             and tensor.layout is torch.strided and tensor.device.type == 'cpu'}
    if not state:
        raise RgbxSegError(f'weights {where}: no tensors in it; expected the weights of a model; '
                           'name another file.')
    for name, tensor in state.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise RgbxSegError(f'weights {where}: {name or "its tensor"} claims more values than '
                               'the file holds; expected whole tensors; save it anew.')
    return _strip(state)


def _strip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off what DistributedDataParallel and torch.compile put before names."""
    plain = {name.replace('_orig_mod.', ''): tensor for name, tensor in state.items()}
    while all(name.startswith('module.') for name in plain):
        plain = {name.removeprefix('module.'): tensor for name, tensor in plain.items()}
    return plain if len(plain) == len(state) else state
