"""Tables for people: columns as wide as what is in them, numbers to the right, no ruler."""

from collections.abc import Sequence


def format_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """The lines of a table; a column whose values are numbers, or "-", stands to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[column]) for line in [list(head), *texts]) for column in range(len(head))]
    to_right = [bool(rows) and all(isinstance(row[column], int) or row[column] == "-" for row in rows) for column in range(len(head))]

    def format_line(cells: Sequence[str]) -> str:
        padded = (cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(cells, widths, to_right, strict=True))
        return "  ".join(padded).rstrip()

    return [format_line(head), *(format_line(line) for line in texts)]


def format_age(ms: int) -> str:
    """A time that has passed, in its largest unit: "3d", "5h", "12m", "8s"."""
    seconds = ms // 1000
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
