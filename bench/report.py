"""Table, JSON and plot of what bench/compare measured."""

import math
import statistics
from xml.sax.saxutils import escape

UNITS = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("ps", 1e-12))


def show_time(seconds):
    """Three digits and a unit."""
    if seconds is None:
        return "-"
    for unit, size in UNITS:
        if seconds >= size or unit == "ps":
            return f"{seconds / size:.3g} {unit}"
    return "0"


def geomean(values):
    """Geometric mean, or None of nothing."""
    values = [v for v in values if v]
    return math.exp(statistics.fmean(math.log(v) for v in values)) if values else None


def ratio(a, b):
    """a/b, or None where either is missing."""
    return a / b if a and b else None


def rows_of(results, baseline):
    """[(group, name, {machine: median}, before)] in the order they were measured."""
    rows = []
    for key, samples in results.items():
        group, _, name = key.partition("/")
        medians = {machine: statistics.median(values) for machine, values in samples.items() if values}
        before = baseline.get(key, {}).get("ring3") if baseline else None
        rows.append((group, name, medians, statistics.median(before) if before else None))
    return rows


def table(results, baseline=None):
    """The one table: medians and ratios, geometric means below each group."""
    head = ["", "native", "ring3", "QEMU TCG", "ring3/native", "QEMU/ring3"] + (["before", "before/ring3"] if baseline else [])
    lines, group_now, group_rows = [head], None, []

    def close_group():
        if len(group_rows) < 2:
            return
        line = [f"geomean of {len(group_rows)}", "", "", "", number(geomean(r[0] for r in group_rows)), number(geomean(r[1] for r in group_rows))]
        lines.append(line + (["", number(geomean(r[2] for r in group_rows))] if baseline else []))

    def number(value):
        return f"{value:.2f}" if value else "-"

    for group, name, m, before in rows_of(results, baseline):
        if group != group_now:
            close_group()
            group_now, group_rows = group, []
            lines.append([group.upper()] + [""] * (len(head) - 1))
        over = ratio(m.get("ring3"), m.get("native")), ratio(m.get("qemu"), m.get("ring3")), ratio(before, m.get("ring3"))
        group_rows.append(over)
        if "memory" in name:
            shown = [f"{m[k]:.1f} MiB" if k in m else "-" for k in ("native", "ring3", "qemu")]
        else:
            shown = [show_time(m.get(k)) for k in ("native", "ring3", "qemu")]
        line = [name, *shown, number(over[0]), number(over[1])]
        lines.append(line + ([show_time(before), number(over[2])] if baseline else []))
    close_group()
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join([line[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(line[1:], widths[1:])]).rstrip() for line in lines)


BAR, LEFT, WIDTH, SPAN = 15, 190, 900, (0.1, 1000.0)


def plot(results, title):
    """SVG: how many times faster than QEMU each row is, on a logarithmic axis; grey marks: native, where it was measured."""
    rows = [(g, n, ratio(m.get("qemu"), m.get("ring3")), ratio(m.get("qemu"), m.get("native"))) for g, n, m, _ in rows_of(results, None)]
    rows = [r for r in rows if r[2]]
    height = 60 + BAR * (len(rows) + len({r[0] for r in rows}))

    def x(value):
        clipped = min(max(value, SPAN[0]), SPAN[1])
        return LEFT + (WIDTH - LEFT - 20) * math.log(clipped / SPAN[0]) / math.log(SPAN[1] / SPAN[0])

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="11">',
           f'<rect width="{WIDTH}" height="{height}" fill="white"/><text x="10" y="18" font-size="14">{escape(title)}</text>']
    for tick in (0.1, 1, 10, 100, 1000):
        out.append(f'<line x1="{x(tick):.1f}" y1="28" x2="{x(tick):.1f}" y2="{height - 18}" stroke="{"#444" if tick == 1 else "#ddd"}"/>')
        out.append(f'<text x="{x(tick):.1f}" y="{height - 5}" text-anchor="middle">{tick:g}x</text>')
    y, group_now = 30, None
    for group, name, faster, native in rows:
        if group != group_now:
            group_now = group
            out.append(f'<text x="10" y="{y + 12}" font-weight="bold">{escape(group)}</text>')
            y += BAR
        left, right = sorted((x(1), x(faster)))
        colour = "#2a7f62" if faster >= 1 else "#b3402a"
        out.append(f'<text x="{LEFT - 6}" y="{y + 11}" text-anchor="end">{escape(name)}</text>')
        out.append(f'<rect x="{left:.1f}" y="{y + 2}" width="{max(right - left, 1):.1f}" height="{BAR - 4}" fill="{colour}"/>')
        if native:
            out.append(f'<line x1="{x(native):.1f}" y1="{y + 1}" x2="{x(native):.1f}" y2="{y + BAR - 1}" stroke="#888" stroke-width="3"/>')
        y += BAR
    return "\n".join(out + ["</svg>"]) + "\n"
