"""A plot (SVG) of how many times faster than QEMU each row is."""

import math
from xml.sax.saxutils import escape

from goals import Figures, geomean
from work import GROUPS

ROW, LEFT, RIGHT, SPAN = 15, 200, 60, (0.1, 200.0)
WIDTH = 960
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
GOALS = {"user": 5, "cold": 3, "kernel": 4, "pti": 4, "nano": 3}  # geometric means to reach
FAST, SLOW, NATIVE, GOAL = "#2a7f62", "#b3402a", "#222", "#c98a00"


def x(value):
    clipped = min(max(value, SPAN[0]), SPAN[1])
    return LEFT + (WIDTH - LEFT - RIGHT) * math.log(clipped / SPAN[0]) / math.log(SPAN[1] / SPAN[0])


def text(at, y, words, anchor="start", more=""):
    return f'<text x="{at:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(words)}</text>'


def line(x1, y1, x2, y2, colour, more=""):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" {more}/>'


def bar(y, name, faster, native):
    """One row: a bar from 1 to what ring3 reaches, and a mark where the host itself is."""
    left, right = sorted((x(1), x(faster)))
    out = [text(LEFT - 6, y + 11, name, "end"),
           f'<rect x="{left:.1f}" y="{y + 2}" width="{max(right - left, 1):.1f}" height="{ROW - 4}" fill="{FAST if faster >= 1 else SLOW}"/>',
           text(right + (5 if not native or abs(x(native) - right) > 30 else 30), y + 11, f"{faster:.2g}" if faster < 1 else f"{faster:.1f}",
                more='fill="#222" stroke="white" stroke-width="3" paint-order="stroke"')]
    if native:
        out.append(line(x(native), y + 1, x(native), y + ROW - 1, NATIVE, 'stroke-width="2.5"'))
    return out


def plot(samples, title):
    figures = Figures(samples)
    body, y = [], 62
    for group, what in GROUPS.items():
        rows = [(key.partition("/")[2], figures.ratio(key, "qemu", "ring3"), figures.ratio(key, "qemu", "native"))
                for key in samples if key.startswith(f"{group}/") and "mappings" not in key]
        rows = [row for row in rows if row[1]]
        if not rows:
            continue
        y += 8
        mean = f": {geomean(r[1] for r in rows):.1f} times faster" if group in GOALS else ""
        body.append(text(10, y + 11, group + mean, more='font-weight="bold"'))
        body.append(text(WIDTH - 8, y + 11, what, "end", 'fill="#666"'))
        y += ROW + 3
        if group in GOALS:
            body.append(line(x(GOALS[group]), y, x(GOALS[group]), y + ROW * len(rows), GOAL, 'stroke-dasharray="4 3" stroke-width="1.5"'))
        for name, faster, native in rows:
            body += bar(y, name, faster, native)
            y += ROW
    height = y + 30
    head = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="11">',
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>', text(10, 20, title, more='font-size="15"'),
            text(10, 38, "Times faster than QEMU TCG, in CPU time; black mark: the host itself; dashed: geometric mean to reach.", more='fill="#444"')]
    for tick in TICKS:
        head.append(line(x(tick), 56, x(tick), height - 22, "#444" if tick == 1 else "#e2e2e2"))
        head += [text(x(tick), at, f"{tick:g}x", "middle", 'fill="#444"') for at in (52, height - 8)]
    return "\n".join(head + body + ["</svg>"]) + "\n"
