"""The text of PDFs, by the reader of Chromium."""

from __future__ import annotations

import re
from pathlib import Path

from pypdfium2 import PdfDocument


def page_texts(paper: Path | bytes) -> list[str]:
    """The text of every page, in single spaces, words whole that were parted at the end of a line."""
    with PdfDocument(paper) as document:
        found = [page.get_textpage().get_text_bounded() for page in document]
    return [re.sub(r"[\s\xa0]+", " ", re.sub("[\u200b\x00\ufffe]|\x02\\s*", "", text)).strip() for text in found]
