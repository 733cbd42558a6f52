"""Bar charts as SVG, without a library."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

_WIDTH, _NAMES, _BAR, _TOP = 720, 300, 24, 44
_INK, _FILL = "#1b1b1b", "#3b6ea5"


def bars(title: str, values: Sequence[tuple[str, float]], *, most: float | None = None) -> str:
    """A horizontal bar for each name and value, in order; the longest is `most`, or the greatest value."""
    longest = most or max((value for _, value in values), default=0.0) or 1.0
    room = _WIDTH - _NAMES - 90
    height = _TOP + _BAR * len(values) + 12
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}">',
        "<style>text { font: 13px sans-serif }</style>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="26" style="font-size: 16px" fill="{_INK}">{escape(title)}</text>',
    ]
    for place, (name, value) in enumerate(values):
        top = _TOP + _BAR * place
        length = round(room * min(1.0, value / longest), 1)
        shown = f"{value:.2f}" if longest <= 10 else f"{value:,.0f}"
        lines += [
            f'<text x="{_NAMES - 8}" y="{top + 15}" text-anchor="end" fill="{_INK}">{escape(name)}</text>',
            f'<rect x="{_NAMES}" y="{top + 3}" width="{length}" height="{_BAR - 8}" fill="{_FILL}"/>',
            f'<text x="{_NAMES + length + 6}" y="{top + 15}" fill="{_INK}">{shown}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
