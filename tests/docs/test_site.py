"""The site that `make docs` builds: whole without the network, on a wide and on a narrow screen."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chromium import CHROMIUM, browser
from pages import ROOT

pytest.importorskip("mkdocs", reason="needs the group `docs`; `make docs` installs it")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_no_page_loads_anything_from_outside(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        loaded = re.findall(
            r'<(?:script|img|link|iframe)[^>]+(?:src|href)="(https?:[^"]+)', page.read_text()
        )
        assert not loaded, page


def test_every_recipe_has_its_text_and_every_table_is_filled(site: Path) -> None:
    recipes = (site / "recipes.html").read_text()
    for path in (ROOT / "configs" / "recipes").glob("*.yaml"):
        assert f'id="{path.stem}"' in recipes
    for page in site.rglob("*.html"):
        assert "<!-- table:" not in page.read_text()
        assert "<!-- function:" not in page.read_text()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_pages_fit_a_phone_and_search_works_without_a_server(site: Path, tmp_path: Path) -> None:
    with browser(tmp_path) as page:
        for file in sorted(site.glob("**/[!4]*.html")):
            page.open(file.as_uri(), width=390, height=800)
            assert page.value("document.documentElement.scrollWidth") == 390, file
        page.open((site / "index.html").as_uri(), width=1280, height=800)
        field = 'document.querySelector("[data-md-component=search-query]")'
        page.value(f"{field}.focus()")
        page.value(f'{field}.value = "quarantine"; {field}.dispatchEvent(new Event("input"))')
        found = 'document.querySelector(".md-search-result__list")?.innerText ?? ""'
        end = time.monotonic() + 60
        while "own photos" not in page.value(found) and time.monotonic() < end:
            page.value(f'{field}.dispatchEvent(new Event("keyup"))')
            time.sleep(0.2)
        assert "own photos" in page.value(found)
        assert all(address.startswith(("file:", "data:")) for address in page.requests)
        assert not page.complaints
