"""A page as a test reads it, and a text that tries to break out of one."""

from html.parser import HTMLParser

from typing_extensions import override

HOSTILE = (
    "</style></title></pre><script>alert(1)</script>\u202e<img src=x onerror=alert(1)>'\"{{ 7 }}"
)


class Reader(HTMLParser):
    """What a browser makes of a page: tags, attributes, links, headings and cells with numbers."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.numbers: list[str] = []
        self.headings: list[str] = []
        self.text = ""
        self.within = ""
        self.feed(html)

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in {"href", "src"}]
        self.within = "number" if ("class", "number") in attrs else tag

    @override
    def handle_data(self, data: str) -> None:
        self.text += data
        if self.within == "number" and data.strip():
            self.numbers.append(data)
        if self.within == "h2" and data.strip():
            self.headings.append(data)
