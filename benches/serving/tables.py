"""Puts a measurement's tables between its own marks in BENCHMARKS.md; what stands around them stays."""

import os
import pathlib
import platform
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def write(path, mark, title, lines):
    """Replaces what stands between the marks of `mark`, or adds a section at the end."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    text = path.read_text() if path.is_file() else "# Benchmarks\n"
    if begin not in text:
        text = f"{text.rstrip()}\n\n## {title}\n\n{begin}\n{end}\n"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(before + "\n".join([begin, *lines, end]) + after)
    print("\n".join(lines), flush=True)


def table(heads, rows):
    """A Markdown table, line by line."""
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield f"| {' | '.join(cell if isinstance(cell, str) else number(cell) for cell in row)} |"


def number(value):
    """Three digits that matter."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value == 0 or abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def machine(command):
    """When, where and how."""
    return f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, Linux {platform.release()}; `{command}`."


def arguments(parser):
    """What every measurement takes."""
    parser.add_argument("--kserved", type=pathlib.Path, default=ROOT / "target" / "release" / "kserved")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "BENCHMARKS.md")
    options = parser.parse_args()
    options.kserved = options.kserved.resolve()
    return options
