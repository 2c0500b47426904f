"""Pieces of a self-contained HTML page. All text is escaped; images are inlined; there is no script."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

MARK = "<!-- written by mlcm report -->"  # tells a report from other files, which are not replaced

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #8888; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.92rem; }
th, td { padding: 0.2rem 0.6rem; text-align: right; border-bottom: 1px solid #8884; vertical-align: top; }
th:first-child, td:first-child, .words th, .words td { text-align: left; }
.words td { overflow-wrap: anywhere; }
.words td:first-child { overflow-wrap: normal; }
.wide { overflow-x: auto; margin: 1rem 0; }
th { white-space: nowrap; }
tr.best td { font-weight: 600; }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; background: white; }
figcaption, .note { color: #777; color: light-dark(#555, #aaa); font-size: 0.92rem; }
.missing { border-left: 4px solid #c80; padding: 0.2rem 1rem; margin: 1rem 0; }
pre { overflow-x: auto; }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def text(value: Any) -> str:
    """Returns a value as escaped text; None is a dash."""
    return "–" if value is None else html.escape(str(value))


def paragraph(*sentences: str, note: bool = False) -> str:
    """Returns sentences as a paragraph; those of a note are smaller."""
    return f"<p{' class=note' if note else ''}>{text(' '.join(sentences))}</p>"


def listed(sentences: Sequence[str]) -> str:
    """Returns sentences as a list."""
    return f"<ul>{''.join(f'<li>{text(one)}</li>' for one in sentences)}</ul>"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, words: bool = False, best: int | None = None) -> str:
    """Returns a table.

    Args:
        header: the names of the columns.
        rows: the cells of each row; None is a dash.
        words: whether the cells are text rather than numbers, which are aligned to the right.
        best: the number of the row that is set in bold.
    """
    head = "".join(f"<th scope=col>{text(one)}</th>" for one in header)
    lines = "".join(
        f"<tr{' class=best' if number == best else ''}>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>"
        for number, row in enumerate(rows)
    )
    kind = " class=words" if words else ""
    return f"<div class=wide><table{kind}><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"


def picture(path: epath.PathLike, description: str, *, caption: str = "") -> str:
    """Returns the image of a .png or .svg file, inlined.

    Args:
        path: the file.
        description: what it shows, for screen readers.
        caption: text below it; "" for images that have a title.
    """
    path = epath.Path(path)
    kind = {".png": "image/png", ".svg": "image/svg+xml"}[path.suffix]
    data = base64.b64encode(path.read_bytes()).decode()
    shown = f'<img src="data:{kind};base64,{data}" alt="{text(description)}">'
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return f"<figure>{shown}{below}</figure>"


def folded(summary: str, body: str) -> str:
    """Returns markup that is shown when its summary is clicked."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def page(title: str, lead: str, sections: Mapping[str, str]) -> str:
    """Returns the whole page.

    Args:
        title: its title, as plain text.
        lead: markup above the contents.
        sections: heading -> markup.
    """
    contents = " · ".join(f'<a href="#s{number}">{text(name)}</a>' for number, name in enumerate(sections))
    parts = [f'<h2 id="s{number}">{text(name)}</h2>\n{body}' for number, (name, body) in enumerate(sections.items())]
    return "\n".join([
        "<!DOCTYPE html>", MARK, '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<title>{text(title)}</title><style>{_STYLE}</style></head><body>",
        f"<main><h1>{text(title)}</h1>", lead, f"<nav>{contents}</nav>", *parts, "</main></body></html>", "",
    ])  # fmt: skip
