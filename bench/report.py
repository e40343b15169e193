"""The tables of bench/compare: medians and ratios, and the goals."""

from goals import GOALS, Figures, geomean, ratio
from work import GROUPS

TIMES = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("ps", 1e-12))
WITH_MEAN = ("user", "cold", "kernel", "pti", "nano")


def show(key, value):
    """A value with its unit: what the row's name says, or time."""
    if value is None:
        return "-"
    if key.endswith("memory"):
        return f"{value:.1f} MiB"
    if key.endswith("mappings") or "/mappings" in key:
        return f"{value:.0f}"
    if "share" in key:
        return f"{100 * value:.2f} %"
    if key.endswith("per second"):
        return f"{value / 1e6:.2f} M/s"
    if key.endswith("expansion"):
        return f"{value:.2f} x"
    for unit, size in TIMES:
        if value >= size or unit == "ps":
            return f"{value / size:.3g} {unit}"
    return "0"


def number(value):
    return f"{value:.2f}" if value else "-"


def columns(lines):
    """Lines of cells, the first column to the left, the others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join([line[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(line[1:], widths[1:])]).rstrip() for line in lines)


def table(samples, baseline=None):
    """Medians and ratios of every row, geometric means below the groups whose rows are of one kind."""
    figures, earlier = Figures(samples), Figures(baseline or {})
    extra = ["before", "before/ring3"] if baseline else []
    lines = [["", "native", "ring3", "QEMU TCG", "ring3/native", "QEMU/ring3", *extra]]
    for group in GROUPS:
        keys = [key for key in samples if key.startswith(f"{group}/")]
        if not keys:
            continue
        lines.append([group.upper()] + [""] * (len(lines[0]) - 1))
        ratios = []
        for key in keys:
            before = earlier.value(key)
            over = figures.ratio(key, "ring3", "native"), figures.ratio(key, "qemu", "ring3"), ratio(before, figures.value(key))
            ratios.append(over)
            line = [key.partition("/")[2], *(show(key, figures.value(key, m)) for m in ("native", "ring3", "qemu")), number(over[0]), number(over[1])]
            lines.append(line + ([show(key, before), number(over[2])] if baseline else []))
        if group in WITH_MEAN and len(keys) > 1:
            means = [number(geomean(row[i] for row in ratios)) for i in range(3)]
            lines.append([f"geomean of {len(keys)}", "", "", "", *means[:2]] + (["", means[2]] if baseline else []))
    return columns(lines)


def goals(samples):
    """Each goal: measured, to reach, reached or not."""
    figures = Figures(samples)
    lines = [["FIGURES TO REACH", "measured", "to reach", ""]]
    for goal in GOALS:
        found = goal.judge(figures)
        wanted = f"{'<=' if goal.most else '>='} {goal.limit:.3g} {goal.unit}".rstrip()
        if found is None:
            lines.append([goal.text, "-", wanted, "not measured"])
        else:
            value, remark, reached = found
            lines.append([goal.text, f"{value:.3g} {goal.unit}".rstrip(), wanted, ("reached" if reached else "NOT REACHED") + (f" ({remark})" if remark else "")])
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    return "\n".join(f"{a:{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in lines)
