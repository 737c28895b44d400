# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How far an evaluation is, on stderr: a bar with the time that is left, or a line now and then.

The bar is tqdm's, on a terminal, where that is installed.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

LINE_S = 10.0  # from one line to the next, where there is no bar


class Progress:
    """Counts pairs over all bags; a context manager."""

    def __init__(self, total: int) -> None:
        """Expect `total` pairs."""
        self._total, self._skipped = total, 0
        self._pairs: dict[str, int] = {}  # by bag
        self._began = self._told = time.monotonic()
        self._bar: Any = _bar(total) if sys.stderr.isatty() else None

    def __enter__(self) -> Progress:
        """Return self."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def tell(self, sentence: str) -> None:
        """Print a sentence, above the bar."""
        if self._bar is not None:
            self._bar.write(sentence, file=sys.stderr)
        else:
            print(sentence, file=sys.stderr, flush=True)

    def skip(self, pairs: int) -> None:
        """Expect so many pairs less."""
        self._total -= pairs
        if self._bar is not None:
            self._bar.total = self._total
            self._bar.refresh()

    def done(self, bag: str, pairs: int) -> None:
        """Take note that so many pairs of a bag are done."""
        before = self._pairs.get(bag, 0)
        self._pairs[bag] = max(pairs, before)
        if self._bar is not None:
            self._bar.update(self._pairs[bag] - before)
        elif time.monotonic() - self._told >= LINE_S:
            self._told = time.monotonic()
            self.tell(self._line())

    def _line(self) -> str:
        done = sum(self._pairs.values())
        rate = done / (time.monotonic() - self._began)
        left = max(self._total - done, 0)
        return (f'{done} of {self._total} pairs, {rate:.1f}/s, '
                f'{left / rate if rate else 0:.0f} s left')


def _bar(total: int) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=total, unit='pair', smoothing=0.05, dynamic_ncols=True, file=sys.stderr)
