"""Pages as a browser would find them, and names that would harm one."""

from __future__ import annotations

from html.parser import HTMLParser

HOSTILE = "a<img src=x onerror=alert(1)>.png"


class Page(HTMLParser):
    """The tags and attributes of a page, as a browser would find them."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.code = ""  # Python that opens what the page shows
        self._in_code = False
        self.feed(raw.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_code = self._in_code or dict(attrs).get("id") == "code"

    def handle_endtag(self, tag: str) -> None:
        self._in_code = self._in_code and tag != "pre"

    def handle_data(self, data: str) -> None:
        self.text += data
        self.code += data if self._in_code else ""

    def images(self) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag == "img"]
