# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_train CONFIG [key=value …]`: trains a model; read `train` and `Run` from top to bottom.

How many processes and devices take part is a choice of `accelerate launch`, not of this code.
"""

from __future__ import annotations

from pathlib import Path

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_train.config import Config
from rgbx_seg_train.config_file import load_config
from rgbx_seg_train.config_pretrain import CLIP
from rgbx_seg_train.run import BEST, LAST, Run


def train(config: Config, resume: bool = False) -> Path:
    """Train as the configuration says; return the best checkpoint, in `config.out`/`config.name`.

    Raises:
        RgbxSegError: data, checkpoint or settings do not fit, or the loss is no longer finite.

    """
    with Run(config, resume) as run:
        for batches in run.batches():
            run.step(batches)
            if run.is_time_to('log'):
                run.write_log()
            if run.is_time_to('eval'):
                run.validate()
            if run.is_time_to('save'):
                run.save()
        run.tell_result()
    return run.folder / BEST


def _parser() -> Arguments:
    parser = Arguments(prog='rgbx_train', description='Train a segmentation model.')
    parser.add_argument('config', type=Path, help='a file such as those in rgbx_seg_train/configs')
    parser.add_argument('overrides', nargs='*', default=[], metavar='key=value',
                        help='settings that win over the file, such as train.steps=100')
    parser.add_argument('--resume', action='store_true', help='continue the run of this name')
    parser.add_argument('--overwrite', action='store_true', help='replace the run of this name')
    parser.add_argument('--preview', type=Path, metavar='PNG',
                        help='write a picture of training samples and what each augmentation does '
                        'to them, and do not train')
    return parser


def _main() -> None:
    args = _parser().parse_args()
    config = load_config(args.config, args.overrides)
    if args.preview:
        from rgbx_seg_train.preview import write_preview  # of no use to a training

        write_preview(config, args.preview)
        print(f'{args.preview}: training samples of {config.name}, and what changes them')
        return
    folder = Path(config.out) / config.name
    found = any((folder / name).exists() for name in (LAST, CLIP))
    if found and not args.resume and not args.overwrite:
        raise RgbxSegError(f'{folder} holds a run already; give --resume to continue it, '
                           '--overwrite to replace it, or another name=….')
    train(config, args.resume)


def main() -> int:
    """Run the command `rgbx_train`."""
    return run_command(_main)


if __name__ == '__main__':
    raise SystemExit(main())
