"""Tables as Markdown and CSV."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

MISSING = "—"


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]], text: Sequence[str] = ()) -> str:
    """Return a Markdown table.

    The first column, and columns named in `text`, are left-aligned, all other columns right.
    """
    lines = [
        "| " + " | ".join(columns) + " |",
        "|" + "|".join("---" if i == 0 or name in text else "--:" for i, name in enumerate(columns)) + "|",
    ]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def comma_separated(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a CSV table."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return out.getvalue()
