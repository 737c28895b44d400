# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_embed_classes`: what a text model makes of the names of classes.

SHIFNet reads them (arXiv 2503.02581: LanguageBind's, one per class; the wording of its prompts is
not told, ours is the bare name, "Traffic Light"). A text model is asked once and offline: the file
holds the unit rows (N, D) and, in its header, the exact strings, the template and the model with
its revision or hash. Whoever reads it compares the classes with those in the header.
With --bank it writes what a robot chooses classes from instead; see `class_bank`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.manifest import ClassInfo
from rgbx_seg_train.class_names import fixed_classes, read_classes
from rgbx_seg_train.config import PROMPTS
from rgbx_seg_train.data.labels import CLASS_SETS
from rgbx_seg_train.data.open_sets import OPEN_SETS
from rgbx_seg_train.prompts import NAME, load_descriptions, plain_name
from rgbx_seg_train.text_tower import load_text_tower

MODEL = 'LanguageBind/LanguageBind_Image'  # SHIFNet's
OTHER = 'openai/clip-vit-large-patch14'  # of the same width
HEADER, TENSOR = 'rgbx_seg_classes', 'class_embeddings'


class Embedded(NamedTuple):
    """The header of a file: what was embedded, and by what."""

    names: tuple[str, ...]  # of the classes, in the order of their ids
    strings: tuple[str, ...]  # what the text model read
    template: str
    model: str  # as the user named it
    origin: str  # hub commit, or file and hash


def class_strings(classes: Sequence[ClassInfo], template: str = NAME) -> tuple[str, ...]:
    """Return the text of each class: "traffic_light" becomes "Traffic Light" in the template."""
    if NAME not in template:
        raise RgbxSegError(f'template {template!r} has no {NAME}; expected a text with {NAME} '
                           'where the name of the class goes, such as "a photo of a {}".')
    return tuple(template.replace(NAME, plain_name(info.name).title()) for info in classes)


def embed_classes(classes: Sequence[ClassInfo], out: Path, model: str = MODEL,
                  template: str = NAME) -> Embedded:
    """Write the embeddings of classes; a file that was made of the same is left as it is.

    Raises:
        RgbxSegError: no such text model, or `out` is something else than class embeddings.

    """
    if out.suffix != '.safetensors':
        raise RgbxSegError(f'{out}: expected a name that ends in .safetensors.')
    before = read_header(out) if out.exists() else None
    strings = class_strings(classes, template)
    tower = load_text_tower(model)
    header = Embedded(tuple(info.name for info in classes), strings, template, model, tower.origin)
    if before == header:
        return header
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f'.{out.name}-{os.getpid()}')
    try:
        save_file({TENSOR: tower.embed(strings)}, temporary,
                  {HEADER: json.dumps(header._asdict())})
        temporary.chmod(0o644)  # safetensors makes it private
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return header


def load_class_embeddings(path: Path, classes: Sequence[ClassInfo]) -> Tensor:
    """Return unit rows, float32 (N, D), of a file of `rgbx_embed_classes`, one for each class.

    Raises:
        RgbxSegError: no such file, or it is of other classes or of another order.

    """
    check_classes(read_header(path), path, classes)
    try:
        with safe_open(path, 'pt') as file:
            rows = file.get_tensor(TENSOR).float()
    except (SafetensorError, OSError) as error:
        raise RgbxSegError(f'class embeddings {path}: cannot be read ({str(error)[:80]}); '
                           'expected a whole file; make it anew.') from None
    if rows.ndim != 2 or len(rows) != len(classes) or not rows.isfinite().all():
        raise RgbxSegError(f'class embeddings {path}: found a tensor of shape '
                           f'{tuple(rows.shape)}, expected {len(classes)} rows of numbers; make '
                           'the file anew.')
    return rows


def read_header(path: Path) -> Embedded:
    """Return what a file of `rgbx_embed_classes` was made of; RgbxSegError if it is no such one."""
    if not path.is_file():
        raise RgbxSegError(f'class embeddings {path}: no such file; expected one that '
                           '`rgbx_embed_classes` made; make it or correct the path.')
    try:
        with safe_open(path, 'pt') as file:
            data: dict[str, Any] = json.loads((file.metadata() or {})[HEADER])
        header = Embedded(**data)
        return header._replace(names=tuple(header.names), strings=tuple(header.strings))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError):
        raise RgbxSegError(f'class embeddings {path}: the file does not say of which classes it '
                           'is; expected one that `rgbx_embed_classes` made; make it anew, or '
                           'take those of others in by `rgbx_convert`.') from None


def check_classes(header: Embedded, path: Path, classes: Sequence[ClassInfo]) -> None:
    """Raise RgbxSegError unless the embedded classes are these, in this order."""
    names = tuple(info.name for info in classes)
    if header.names == names:
        return
    if sorted(header.names) == sorted(names):
        raise RgbxSegError(f'class embeddings {path}: made of the same classes in another order; '
                           'expected that of the ids; make them anew.')
    lacking = next((name for name in names if name not in header.names), None)
    found = f'made of {len(header.names)} classes' + (
        f' without {lacking!r}' if lacking else f', such as {header.names[0]!r}')
    raise RgbxSegError(f'class embeddings {path}: {found}; expected these {len(names)}: '
                       f'{", ".join(names[:4])} …; run `rgbx_embed_classes` for them.')


def tells_classes(where: str) -> Embedded | None:
    """Return the header of a file of ours, or None of anything else: others say no classes."""
    path = Path(os.path.expanduser(where))
    if path.is_dir():
        path = path / 'classes.safetensors'
    try:
        return read_header(path) if path.suffix == '.safetensors' else None
    except RgbxSegError:
        return None


def _parser() -> Arguments:
    parser = Arguments(prog='rgbx_embed_classes',
                       usage='%(prog)s CLASSES OUT.safetensors [--model WHERE] [--template TEXT]\n'
                             '       %(prog)s CLASSES... --bank OUT.npz [--names NAME...] '
                             '[--model WHERE]\n'
                             '           [--mode MODE] [--template TEXT] '
                             '[--descriptions BANK.json]',
                       description='Embed classes by a text model: those of a training of SHIFNet, '
                                   'or a bank from which a robot chooses at run time.')
    parser.add_argument('words', nargs='*', default=[], metavar='CLASSES',
                        help=f'{", ".join(CLASS_SETS)}, or a configuration (.yaml); for a bank '
                             f'also {", ".join(OPEN_SETS)}, or a file (.yaml) that lists classes, '
                             'and several of them')
    parser.add_argument('--model', default=MODEL, metavar='WHERE',
                        help='folder, or OWNER/NAME[@REVISION] of the hub, of a text tower of '
                        f"CLIP's shape; {MODEL} if not given, {OTHER} has the same width; for a "
                        'bank also a checkpoint of LMSeg, which has its own')
    parser.add_argument('--template', metavar='TEXT',
                        help='with {} where the name goes; if not given, the bare name, or what '
                             'the checkpoint was trained with')
    bank = parser.add_argument_group('for a bank')
    bank.add_argument('--bank', type=Path, metavar='OUT.npz', help='the file to write')
    bank.add_argument('--names', nargs='+', default=[], metavar='NAME', help='further classes')
    bank.add_argument('--mode', choices=PROMPTS,
                      help='what is told of each class: template, its name; full, how it looks; or '
                           'an attribute of that; if not given, the name, or what the checkpoint '
                           'was trained with')
    bank.add_argument('--descriptions', metavar='BANK.json',
                      help='of rgbx_describe_classes, over those of this package')
    return parser


def _embed_bank(args: Any) -> None:
    from rgbx_seg_train.class_bank import load_text_model, make_bank, write_bank

    if args.bank.suffix != '.npz':
        raise RgbxSegError(f'{args.bank}: expected a name that ends in .npz.')
    classes = read_classes(args.words, args.names)
    model = load_text_model(args.model)
    changes = {'mode': args.mode, 'template': args.template, 'bank': args.descriptions}
    settings = replace(model.settings, **{key: value for key, value in changes.items()
                                          if value is not None})
    bank = make_bank(classes, model, settings)
    write_bank(args.bank, bank)
    for name, text in zip(bank.names, bank.texts, strict=True):
        print(f'{name}: {text}')
    if settings.mode != 'template':
        found = [named.whole for named in classes if not named.text]
        for name, lender in load_descriptions(settings.bank).lenders(found).items():
            print(f'note: {name} is told as {lender!r}; if it is another thing, describe it in a '
                  'file of classes or by --descriptions.')
    print(f'{args.bank}: {len(bank.names)} classes by {args.model} ({model.origin})')


def _main() -> None:
    args = _parser().parse_args()
    if args.bank is not None:
        _embed_bank(args)
        return
    if len(args.words) != 2 or args.names or args.mode or args.descriptions:
        raise RgbxSegError(f'found {len(args.words)} arguments and no --bank; expected CLASSES and '
                           'OUT.safetensors for a training, or --bank OUT.npz for a robot; '
                           '--names, --mode and --descriptions are for a bank.')
    classes, out = fixed_classes(args.words[0]), Path(args.words[1])
    header = embed_classes(classes, out, args.model, args.template or NAME)
    for info, string in zip(classes, header.strings, strict=True):
        print(f'{info.id:4}  {string}')
    print(f'{out}: by {header.model} ({header.origin})')


def main() -> int:
    """Run the command `rgbx_embed_classes`."""
    return run_command(_main)


if __name__ == '__main__':
    raise SystemExit(main())
