"""Checks that every link and picture of a built site leads somewhere inside it: `python tools/check_links.py site`.

Links to other hosts are not followed: whether those are up says nothing about this site.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links of a page and the places that one can link to."""

    def __init__(self, path):
        super().__init__()
        self.links, self.places = [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.places.add(values.get("id"))
        if tag == "a":
            self.places.add(values.get("name"))
        for name in ("href", "src"):
            if values.get(name) is not None:
                self.links.append(values[name])


def main(root):
    root = Path(root).resolve()
    pages = {path: Page(path) for path in root.rglob("*.html")}
    broken, count = [], 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            count += 1
            where = unquote(parts.path)
            target = (root / where.lstrip("/") if where.startswith("/") else path.parent / where).resolve() if where else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                broken.append(f"{path.relative_to(root)}: {link}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places:
                broken.append(f"{path.relative_to(root)}: {link} has no such place")
    print(f"{count} links and pictures on {len(pages)} pages, {len(broken)} broken", *broken, sep="\n")
    return bool(broken) or not pages


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
