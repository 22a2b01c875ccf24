"""Checks that the built site fetches nothing: `python tools/offline_site.py FOLDER` names each page that would."""

import sys
from html.parser import HTMLParser
from pathlib import Path

FETCHED = {"audio", "embed", "iframe", "img", "link", "object", "script", "source", "video"}
NOT_FETCHED = {"canonical", "next", "prev"}
"""What `<link rel=…>` may say of another address without a browser fetching it."""


class Fetches(HTMLParser):
    """Collects the addresses of other hosts that a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag not in FETCHED or (tag == "link" and values.get("rel") in NOT_FETCHED):
            return
        addresses = (values.get(name, "") for name in ("src", "href", "data"))
        self.found += [address for address in addresses if address.startswith(("http://", "https://", "//"))]


def fetched(page: str) -> list[str]:
    """The addresses of other hosts that this HTML fetches."""
    parser = Fetches()
    parser.feed(page)
    return parser.found


def main(folder: Path) -> int:
    pages = sorted(folder.rglob("*.html"))
    if not pages:
        print(f"offline_site: no pages in {folder}: build the site first", file=sys.stderr)
        return 1
    faults = [(page, address) for page in pages for address in fetched(page.read_text())]
    for page, address in faults:
        print(f"offline_site: {page.relative_to(folder)} fetches {address}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
