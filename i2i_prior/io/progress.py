"""Progress of a long operation, as a bar or as lines."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from tqdm import tqdm


class Progress:
    """Progress bar on a terminal, plain lines anywhere else.

    A plain line comes with every update that carries values (a log step) and
    otherwise at most once in 10 seconds. With `write=False` nothing comes.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        description: str = "",
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        write: bool = True,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._write = write
        self._total, self._start, self._clock = total, start, clock
        self._description = description
        self._began = self._last_line = clock()
        self._bar: tqdm | None = None
        if write and self._stream.isatty():
            self._bar = tqdm(
                total=total,
                initial=start,
                desc=description,
                file=self._stream,
                dynamic_ncols=True,
                bar_format="{desc} {n_fmt}/{total_fmt} |{bar}| {percentage:.0f}"
                "% [{elapsed}<{remaining}{postfix}]",
            )

    def restart(self, step: int) -> None:
        """The time left is judged from here on: compilation is over."""
        self._start, self._began = step, self._clock()
        if self._bar is not None:
            self._bar.initial = step
            self._bar.start_t = self._bar._time()

    def update(self, step: int, **values: float | None) -> None:
        """`step` steps are done; loss, examples_per_second, mfu and others."""
        text = _readable(values)
        if self._bar is not None:
            if text:
                self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)
            return
        now = self._clock()
        due = now - self._last_line >= 10.0
        if not self._write or not (text or due):
            return
        self._last_line = now
        parts = [f"{self._description} {step}/{self._total}".strip(), text]
        done = step - self._start
        if done > 0 and step < self._total:
            remaining = (now - self._began) / done * (self._total - step)
            parts.append(f"ETA {tqdm.format_interval(remaining)}")
        print("  ".join(filter(None, parts)), file=self._stream, flush=True)

    def close(self) -> None:
        """Leaves the bar as it is and ends its line."""
        if self._bar is not None:
            self._bar.close()


def _readable(values: Mapping[str, float | None]) -> str:
    """{"loss": .5, "mfu": .4} -> "loss 0.5  MFU 40.0 %"; None is left out."""
    words = []
    for name, value in values.items():
        if value is None:
            continue
        if name == "mfu":
            words.append(f"MFU {100 * value:.1f} %")
        elif name.endswith("_per_second"):
            words.append(f"{value:.4g} {name.removesuffix('_per_second')}/s")
        else:
            words.append(f"{name.replace('_', ' ')} {value:.4g}")
    return "  ".join(words)
