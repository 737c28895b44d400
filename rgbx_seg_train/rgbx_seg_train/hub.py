# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Finds files of the Hugging Face hub: at a pinned commit, in the cache if they lie there.

Without a network one sentence says, at once, which file is wanted and how to fetch it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import (
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from rgbx_seg_ros import RgbxSegError

SUFFIXES = ('.safetensors', '.pt', '.pth', '.bin')  # of files that `weights` reads
TIMEOUT_S = 5.0  # for the hub's first answer

# Commits that public sources tie to these repositories; nothing was fetched to check them. Those of
# MiT-B0, -B1 and -B2 are said to be the hub's own conversions to safetensors, the others the main
# branch.
HUB_REVISIONS: dict[str, str] = {
    'nvidia/mit-b0': '25ce79d97e6d9d509ed12e17cb2eb89b0a83a2dc',
    'nvidia/mit-b1': '44575a0572f5374ed1e5b4e46ec8276222f6ffe8',
    'nvidia/mit-b2': 'd15ed1f9ae92346f6a6067dbb490a62494ae0d28',
    'nvidia/mit-b3': '0e0522cf0515903a0d35abc5adc9df78a25fde7c',
    'nvidia/mit-b4': '3844ddaa13d9ce98816bacb904688a5284f164af',
    'nvidia/mit-b5': '40357155205b036cf11b61f132d53d2f8861f170',
    'openai/clip-vit-base-patch16': '57c216476eefef5ab752ec549e440a49ae4ae5f3',
    'openai/clip-vit-large-patch14': '32bd64288804d66eefd0ccbe215aa642df71cc41',
    'facebook/sam2.1-hiera-tiny': 'de431c4043854a71d8101e17995dfe596bf101a5',
    'facebook/sam2.1-hiera-small': 'ee5bba1d82bb8749febdf90f45e84b687142ba03',
    'facebook/sam2.1-hiera-base-plus': 'b7320756a13354e7530a63935656d35b2f91a290',
    'facebook/sam2.1-hiera-large': '665f8e2ad61cf5f53d65644ff27c8ee525124610',
    'LanguageBind/LanguageBind_Image': 'd8c2e37b439f4fc47c649dc8b90cdcd3a4e0c80e',
}
# Repositories that hold no safetensors file at that commit: what they hold instead.
HUB_FILES: dict[str, str] = {
    'nvidia/mit-b3': 'pytorch_model.bin',
    'nvidia/mit-b4': 'pytorch_model.bin',
    'nvidia/mit-b5': 'pytorch_model.bin',
    'openai/clip-vit-base-patch16': 'pytorch_model.bin',
    'LanguageBind/LanguageBind_Image': 'pytorch_model.bin',
}

_HUB_ID = re.compile(r'(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w.-]+(?:/[\w.-]+)*))?')
_COMMIT = re.compile(r'[0-9a-f]{40}')


class HubId(NamedTuple):
    """A repository of the hub at one revision: a branch, a tag or a commit."""

    repo: str
    revision: str

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return _COMMIT.fullmatch(self.revision) is not None


def parse_hub_id(where: str) -> HubId | None:
    """Return what `where` names on the hub; None if it looks like a path."""
    match = _HUB_ID.fullmatch(where)
    if not match or where.endswith(SUFFIXES) or '..' in where:
        return None
    repo = match['repo']
    try:
        validate_repo_id(repo)
    except HFValidationError:
        return None
    return HubId(repo, match['revision'] or HUB_REVISIONS.get(repo, 'main'))


class HubSearch:
    """Looks for files of a repository, in the cache and on the hub, and remembers what failed."""

    def __init__(self, hub: HubId, files: Sequence[str]) -> None:
        """Prepare to look for the first of some files."""
        self.hub, self.commit = hub, hub.revision
        self.unreached = ''  # why the hub cannot be reached
        held = HUB_FILES.get(hub.repo) if hub.revision == HUB_REVISIONS.get(hub.repo) else None
        self.names = sorted(files, key=lambda name: name != held)
        self.cached = hub.pinned and any(
            self._in_cache(name) or self._in_cache(f'{name}.index.json') for name in self.names)

    def find(self, name: str) -> Path | None:
        """Return a file in the cache, fetched if need be; None if it is not there."""
        if self.cached:  # a commit never changes: no need to ask
            return self._in_cache(name)
        path = None if self.unreached else self._fetch(name)
        return self._in_cache(name) if self.unreached else path

    def _fetch(self, name: str) -> Path | None:
        hub = self.hub
        url = hf_hub_url(hub.repo, name, revision=hub.revision)
        try:
            # Asked once, as the download repeats its own question for half a minute.
            commit = get_hf_file_metadata(url, timeout=TIMEOUT_S).commit_hash
            if commit is None:  # the page of a proxy or a portal
                self.unreached = 'another page answered'
                return None
            self.commit = commit
            return Path(hf_hub_download(hub.repo, name, revision=commit))
        except RemoteEntryNotFoundError:
            return None
        except GatedRepoError:
            raise RgbxSegError(f'weights {hub.repo}: its owner lets in only who asked; accept the '
                               'terms on its page, then run `hf auth login`.') from None
        except RepositoryNotFoundError:
            raise RgbxSegError(f'weights {hub.repo}: neither a path here nor a public repository '
                               'of the hub; correct the name, or `hf auth login` if it is '
                               'private.') from None
        except RevisionNotFoundError:
            raise RgbxSegError(f'weights {hub.repo}: has no revision {hub.revision}; name a '
                               'branch, a tag or a commit of it.') from None
        except Exception as error:  # its transports have errors of their own
            self.unreached = (str(error).splitlines() or [type(error).__name__])[0][:60]
            return None

    def _in_cache(self, name: str) -> Path | None:
        path = try_to_load_from_cache(self.hub.repo, name, revision=self.hub.revision)
        if not isinstance(path, str):  # unknown, or known to be absent
            return None
        if not self.hub.pinned:
            self.commit = Path(path).relative_to(_snapshots(path)).parts[0]
        return Path(path)

    def failure(self) -> RgbxSegError:
        """Return the one sentence that says what is wanted and what to do."""
        hub, names = self.hub, ' or '.join(self.names)
        if not self.unreached:
            return RgbxSegError(f'weights {hub.repo}: holds no {names} at revision '
                                f'{hub.revision}; name another revision, or a folder with such a '
                                'file.')
        main = [name for name in self.names if isinstance(
            try_to_load_from_cache(hub.repo, name, revision='main'), str)]
        other = f', or take {hub.repo}@main, which is in the cache' if main else ''
        return RgbxSegError(
            f'weights {hub.repo}: {self.names[0]} at revision {hub.revision} is not in the cache, '
            f'and the hub cannot be reached ({self.unreached}); where there is a network, run '
            f'`hf download {hub.repo} {self.names[0]} --revision {hub.revision}`, or name a file '
            f'or folder that is here{other}.')


def _snapshots(path: str) -> Path:
    return next(parent for parent in Path(path).parents if parent.name == 'snapshots')


def load_pretrained(where: str, expected: str, *classes: Any) -> tuple[Any, ...]:
    """Return what `from_pretrained` of each class makes of a folder, or of the hub's cache.

    Raises:
        RgbxSegError: not on this machine, or not what is expected.

    """
    name, options = _on_this_machine(where)
    try:
        return tuple(each.from_pretrained(name, **options, local_files_only=True)
                     for each in classes)
    except Exception as error:  # its readers have errors of their own
        text = re.sub(r'https?://\S+', '', str(error))
        reason = ' '.join(text.split())[:100] or type(error).__name__
        remedy = (f'where there is a network, run `hf download {name} --revision '
                  f'{options["revision"]}`, or name a folder' if options else 'copy it again')
        raise RgbxSegError(f'model {where}: cannot be loaded from this machine ({reason}); '
                           f'expected {expected}; {remedy}.') from None


def _on_this_machine(where: str) -> tuple[str, dict[str, str]]:
    """Return a folder or repository as `from_pretrained` takes it, with its revision."""
    path = Path(os.path.expanduser(where))
    if path.is_dir():
        return str(path), {}
    hub = parse_hub_id(where)
    if hub is None:
        raise RgbxSegError(f'model {where}: no such folder; expected one that transformers saved, '
                           'or a hub repository as OWNER/NAME[@REVISION]; correct the path.')
    return hub.repo, {'revision': hub.revision}
