# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_describe_classes NAMES... --model WHERE --out bank.json`: has a language model tell looks.

LMSeg (arXiv 2412.00364) asked GPT-3.5 for the color, the shape and size, and the texture and
material of each class; its question is not published. Ours asks any instruct model that
`transformers` loads and that lies on this machine, shows it one answer of the package's own bank,
and takes nothing but three lines in that form: first the most probable answer, then drawn ones.
What the file holds already is not asked again, so a run that was cut off goes on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.register import write_atomically
from rgbx_seg_train.class_names import SETS, read_classes
from rgbx_seg_train.config import TextConfig
from rgbx_seg_train.hub import load_pretrained
from rgbx_seg_train.json_file import check_json
from rgbx_seg_train.prompts import (
    ATTRIBUTES,
    MAX_TOKENS,
    SYNONYM,
    Description,
    described,
    load_descriptions,
    most_tokens,
    name_key,
    plain_name,
    read_descriptions,
)

EXPECTED = 'a causal language model that follows instructions'
EXAMPLE = 'fire extinguisher'  # of the package's bank
MOST_WORDS = 14  # of a line
ANSWER_TOKENS = 96
TRIES, TEMPERATURE = 4, 0.7
SAVE_EVERY = 16  # classes
HOPELESS = 8  # classes without an answer in a row, after which a model is given up

Ask = Callable[[str, int], str]  # question and number of the try -> answer


def question(name: str) -> str:
    """Return what is asked about a class."""
    also = ', '.join(map(plain_name, name.split(SYNONYM)[1:]))
    what = f'"{plain_name(name)}"' + (f' (also: {also})' if also else '')
    return (f'How does {what} usually look in a photo? Answer in exactly three lines of this form '
            'and write nothing else:\ncolor: its typical colors\nshape: its shape and size\n'
            f'texture: its texture or material\nEach line has 2 to {MOST_WORDS} plain words.')


def parse_answer(name: str, answer: str) -> Description:
    """Return what an answer tells of a class; ValueError says why it is none.

    Only case, blank lines and periods at the end of a line may differ from the form.
    """
    lines = [line.strip() for line in answer.strip().splitlines() if line.strip()]
    if len(lines) != len(ATTRIBUTES):
        raise ValueError(f'{len(lines)} lines instead of {len(ATTRIBUTES)}')
    told = Description(*(_line(*pair) for pair in zip(ATTRIBUTES, lines, strict=True)))
    if len(set(told[:3])) < len(ATTRIBUTES):
        raise ValueError('two lines that say the same')
    count = most_tokens(described(name, told, TextConfig()))
    if count > MAX_TOKENS:
        raise ValueError(f'about {count} tokens, CLIP reads {MAX_TOKENS}')
    return told


def _line(attribute: str, line: str) -> str:
    found = re.fullmatch(rf"{attribute}: *([a-z0-9][a-z0-9 ,.'-]*)", line.lower())
    if not found:
        raise ValueError(f'"{line[:30]}" instead of "{attribute}: …"')
    text = ' '.join(found[1].split()).rstrip('.,- ')
    if not 2 <= len(text.split()) <= MOST_WORDS:
        raise ValueError(f'{len(text.split())} words of {attribute} instead of 2 to {MOST_WORDS}')
    return text


def load_model(where: str, seed: int = 0) -> Ask:
    """Return what asks the instruct model of a folder or of the hub's cache.

    Raises:
        RgbxSegError: not on this machine, no causal language model, or it has no form for a chat.

    """
    tokenizer, = load_pretrained(where, EXPECTED, AutoTokenizer)
    if not tokenizer.chat_template:
        raise RgbxSegError(f'model {where}: its tokenizer has no chat template; expected a model '
                           'that was made to follow instructions; choose another.')
    model, = load_pretrained(where, EXPECTED, AutoModelForCausalLM)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    model.eval().to(device)
    example = load_descriptions().find(EXAMPLE)
    shown = '\n'.join(f'{key}: {getattr(example, key)}' for key in ATTRIBUTES)

    @torch.inference_mode()
    def ask(text: str, attempt: int) -> str:
        talk = [{'role': 'user', 'content': question(EXAMPLE)},
                {'role': 'assistant', 'content': shown}, {'role': 'user', 'content': text}]
        # what has no such switch ignores it; thoughts would be taken for the answer
        inputs = tokenizer.apply_chat_template(
            talk, add_generation_prompt=True, return_dict=True, return_tensors='pt',
            enable_thinking=False).to(device)
        options = {'do_sample': True, 'temperature': TEMPERATURE, 'top_p': 0.9}
        with torch.random.fork_rng():
            torch.manual_seed(seed + attempt)
            made = model.generate(**inputs, max_new_tokens=ANSWER_TOKENS,
                                  **(options if attempt else {'do_sample': False}))
        return tokenizer.decode(made[0, inputs['input_ids'].shape[1]:], skip_special_tokens=True)

    return ask


def describe_classes(names: Sequence[str], out: Path, ask: Callable[[], Ask], tries: int = TRIES
                     ) -> int:
    """Write how classes look into a bank, beside what it holds; return how many were new.

    `ask` loads the model, and is called only if there is something to ask.

    Raises:
        RgbxSegError: the model's answers for a class do not have the form; the others are kept.

    """
    bank = read_descriptions(out) if out.exists() else {}
    first: dict[str, str] = {}  # spelling of a name, under what all of its spellings share
    for name in (*bank, *names):
        first.setdefault(name_key(name), name)
    new = [name for name in first.values() if name not in bank]
    model = ask() if new else None
    failed: dict[str, str] = {}
    known = saved = len(bank)
    row = 0  # of failures
    try:
        for name in tqdm(new, out.name, unit='class', disable=None):
            told = _describe(name, model, tries)
            if isinstance(told, Description):
                bank[name], row = told, 0
            else:
                failed[name], row = told, row + 1
            if row == HOPELESS:
                break
            if len(bank) == saved + SAVE_EVERY:
                save_descriptions(out, bank)
                saved = len(bank)
    finally:
        if len(bank) > saved:
            save_descriptions(out, bank)
    if failed:
        name, reason = next(iter(failed.items()))
        raise RgbxSegError(f'{out}: {len(bank) - known} of {len(new)} classes were described, the '
                           f'model has no answer of the form for {len(failed)}, such as {name!r} '
                           f'({reason}); expected three lines of color, shape and texture; run '
                           'again with another --seed or model, or write them by hand.')
    return len(new)


def _describe(name: str, ask: Ask, tries: int) -> Description | str:
    """Return how a class looks, or what was wrong with the last answer."""
    reason = ''
    for attempt in range(tries):
        try:
            return parse_answer(name, ask(question(name), attempt))
        except ValueError as error:
            reason = str(error)
    return reason


def save_descriptions(path: Path, bank: Mapping[str, Description]) -> None:
    """Write a bank whole or not at all: sorted, one class a line."""
    lines = [f'{json.dumps(name, ensure_ascii=False)}: '
             + json.dumps({key: text for key, text in told._asdict().items() if text},
                          ensure_ascii=False) for name, told in sorted(bank.items())]
    write_atomically(path, ('{\n' + ',\n'.join(lines) + '\n}\n').encode())


def _parser() -> Arguments:
    parser = Arguments(prog='rgbx_describe_classes',
                       description='Have a language model describe how classes look, for '
                                   'text.bank.')
    parser.add_argument('names', nargs='*', default=[], metavar='NAME',
                        help='of a class; further words for the same after commas: "car, auto"')
    parser.add_argument('--classes', action='append', default=[], metavar='SET',
                        help=f'{", ".join(SETS)}, or a file (.yaml) with classes; may be repeated')
    parser.add_argument('--model', required=True, metavar='WHERE',
                        help='folder, or OWNER/NAME[@REVISION] in the cache of the hub, of an '
                             'instruct model')
    parser.add_argument('--out', type=Path, required=True, metavar='BANK.json',
                        help='what it holds already is not asked again')
    parser.add_argument('--tries', type=int, default=TRIES, metavar='N',
                        help='answers a class, all but the first drawn (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of the drawn answers')
    return parser


def _main() -> None:
    args = _parser().parse_args()
    if args.tries < 1:
        raise RgbxSegError(f'--tries is {args.tries}; expected 1 or more; correct it.')
    check_json(args.out)
    names = [named.whole for named in read_classes(args.classes, args.names)]
    new = describe_classes(names, args.out, lambda: load_model(args.model, args.seed), args.tries)
    print(f'{args.out}: {new} classes described, {len(names) - new} known already')


def main() -> int:
    """Run the command `rgbx_describe_classes`."""
    return run_command(_main)


if __name__ == '__main__':
    raise SystemExit(main())
