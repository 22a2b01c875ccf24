"""The check of `make site` finds what a page would fetch from another host, and nothing else."""

import importlib.util
from pathlib import Path

import pytest

TOOL = Path(__file__).parent.parent / "tools" / "offline_site.py"
SPEC = importlib.util.spec_from_file_location("offline_site", TOOL)
assert SPEC is not None
assert SPEC.loader is not None
offline_site = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(offline_site)


@pytest.mark.parametrize(
    "tag",
    [
        '<script src="https://unpkg.com/iframe-worker/shim"></script>',
        '<link rel="stylesheet" href="//fonts.example.org/a.css">',
        '<img alt="" src="http://example.org/a.png">',
    ],
)
def test_what_a_page_fetches_from_another_host_is_named(
    tag: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "page.html").write_text(f"<html>{tag}</html>")
    assert offline_site.main(tmp_path) == 1
    assert "page.html fetches" in capsys.readouterr().err


def test_links_for_a_reader_and_files_of_the_site_are_allowed(tmp_path: Path) -> None:
    page = '<a href="https://example.org">x</a><script src="../a.js"></script><link rel="canonical" href="https://a.example">'
    (tmp_path / "page.html").write_text(page)
    assert offline_site.main(tmp_path) == 0


def test_a_folder_without_pages_is_an_error(tmp_path: Path) -> None:
    assert offline_site.main(tmp_path) == 1
