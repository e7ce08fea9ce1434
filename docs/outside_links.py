"""MkDocs hook: show links to files outside docs/ (configs, notebooks, code) as plain file names on the site.

On a forge these links work as they stand. The site has the pages of docs/ only.
"""

import posixpath
import re
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **others: Any) -> str:
    """Replace each link that leaves docs/ by its text and the path of the file."""

    def replaced(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), match[2]))
        return match[0] if path.startswith("docs/") else f"{match[1]} (`{path}`)"

    return LINK.sub(replaced, markdown)
