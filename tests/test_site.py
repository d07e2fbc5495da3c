"""The site: each public name is documented, and what Sphinx builds is whole.

The first tests need no Sphinx. The others build the site once, with warnings as errors, and look at
its pages; they are skipped where the group ``docs`` of pyproject.toml is not installed.
"""

from __future__ import annotations

import doctest
import html
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from zoo import OPTIMIZERS, name_of

import fastoptim as fo

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NEEDED = ("sphinx", "furo", "numpydoc", "myst_parser", "sphinx_gallery", "matplotlib", "mpi4py",
          "latex2mathml", "llvmlite")  # fmt: skip

sys.path.append(str(DOCS / "_sphinx"))


def of_the_site(name: str):
    """Return a module of the site's own, which may need what is not installed."""
    return pytest.importorskip(name, exc_type=ImportError)


MODULES = [
    "fastoptim",
    *(f"fastoptim.{n}" for n in fo.__all__ if inspect.ismodule(getattr(fo, n))),
    *(
        f"fastoptim.integrations.{path.stem}"
        for path in (ROOT / "fastoptim" / "integrations").iterdir()
        if not path.stem.startswith("_")
    ),
]


def public(module: str) -> dict[str, object]:
    """Return what is public in a module, by name; skip the test if its library is missing."""
    there = pytest.importorskip(module, exc_type=ImportError)
    return {n: getattr(there, n) for n in dir(there) if not n.startswith("__")}


@pytest.mark.parametrize("module", MODULES)
def test_each_public_name_has_a_docstring(module):
    found = public(module)
    assert inspect.getdoc(importlib.import_module(module))
    for name, thing in found.items():
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), f"{module}.{name}: expected a docstring"
            for part, method in methods(thing).items():
                assert inspect.getdoc(method), f"{module}.{name}.{part}: expected a docstring"


def methods(thing: object) -> dict[str, object]:
    """Return the public methods and properties that a class of fastoptim defines."""
    found = {}
    for base in inspect.getmro(thing) if inspect.isclass(thing) else ():
        if base.__module__.startswith("fastoptim"):
            found |= {n: m for n, m in vars(base).items() if callable(m) or type(m) is property}
    return {n: m for n, m in found.items() if not n.startswith("_") and n != "rule"}


@pytest.mark.parametrize("module", MODULES)
def test_each_argument_of_a_public_function_is_described(module):
    for name, thing in public(module).items():
        if inspect.isfunction(thing) and thing.__module__.startswith("fastoptim"):
            described = inspect.getdoc(thing)
            for argument in inspect.signature(thing).parameters:
                pattern = rf"^(?:[\w*, ]*, )?\**{argument}(?:,[\w*, ]*)?(?: : .*)?$"
                assert re.search(pattern, described, re.MULTILINE), f"{module}.{name}: {argument}"


def test_the_pages_of_the_api_have_every_public_name():
    pages = of_the_site("api_pages")
    listed = (DOCS / "api.md").read_text(encoding="utf-8")
    texts = {}
    for module in ("fastoptim", *pages.modules()):
        assert re.search(rf"^api/{re.escape(module)}$", listed, re.MULTILINE), (
            f"docs/api.md: expected a line api/{module}"
        )
        try:
            texts[module] = pages.page(module)
        except ImportError:
            continue  # its library is not installed
    assert len(texts) > 10
    everything = "".join(texts.values())
    for module in texts:
        for name in public(module):
            full = f"{module}.{name}"
            if full in pages.modules() or f"{full}." in "".join(f"{m}." for m in pages.modules()):
                continue
            short = pages.documented_as(module, name).removeprefix("fastoptim.")
            assert re.search(rf"(?:~|data:: ){re.escape(short)}$", everything, re.MULTILINE), full


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_a_row_of_the_table_of_rules(cls):
    table = of_the_site("rules_table")
    opt = cls([np.ones(7, "float32")])
    opt.step([np.ones(7, "float32")])
    assert cls in table.classes()
    assert table.formulas(cls)
    *lines, size = table.state(cls)
    (state,) = opt.state.values()
    assert lines[0] == f"state: {', '.join(state) or 'none'}"
    least = sum(a.nbytes for a in state.values()) // 7
    assert re.fullmatch(rf"{least}( to {4 * len(cls.rule.state)})? bytes", size)
    for choice in table.choices(cls):
        assert choice == "use_average()" or choice in inspect.signature(cls).parameters
    decoupled = opt.param_groups[0].get("decoupled_weight_decay", "weight_decay" in cls.rule.own)
    assert ("decay: decoupled" in table.decay(cls)) == decoupled


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Return the folder of the site, built with warnings as errors."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-n", "-E", "--keep-going"]
    # A proxy that does not answer: whatever asks the network for something fails.
    offline = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    done = subprocess.run(
        [*command, str(DOCS), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=540,
        env=os.environ | offline | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def pages_of(folder: Path) -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.html"))}


def words(page: str) -> str:
    """Return what a reader sees of a page, but for code."""
    text = re.sub(r"<(script|style|pre|code|svg)\b.*?</\1>", "", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", " ", text))


def test_there_is_no_raw_markup(site):
    signs = r"\\\(|\\\[|\$\$|\\[a-zA-Z]{2}|:math:|:py:|```|\{rules\}"
    for path, page in pages_of(site).items():
        found = re.findall(rf".*(?:{signs}).*", words(page))
        assert found == [], path.relative_to(site)


def test_links_and_pictures_lead_somewhere(site):
    pages = pages_of(site)
    ids = {path: {*re.findall(r'\bid="([^"]+)"', page)} for path, page in pages.items()}
    for path, page in pages.items():
        for link in re.findall(r'\b(?:href|src)="([^"]+)"', page):
            link = html.unescape(link)
            if re.match(r"https?:|mailto:|data:", link):
                continue
            file, _, anchor = link.partition("#")
            target = (path.parent / unquote(file.partition("?")[0])).resolve() if file else path
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{path.relative_to(site)}: {link}"
            if anchor and target.suffix == ".html":
                assert unquote(anchor) in ids[target], f"{path.relative_to(site)}: {link}"


def test_a_page_fetches_nothing(site):
    """Other sites are only linked to."""
    for path, page in pages_of(site).items():
        fetched = re.findall(r'<(?:script|img|iframe|source)[^>]*\bsrc="(?:https?:)?//[^"]*', page)
        fetched += re.findall(r'<link[^>]*\bhref="(?:https?:)?//[^"]*', page)
        assert fetched == [], path.relative_to(site)
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"url\(['\"]?(?:https?:)?//", text), path


def test_every_public_name_has_an_anchor(site):
    names = of_the_site("api_pages")
    anchors = set(re.findall(r'\bid="(fastoptim[\w.]*)"', "".join(pages_of(site).values())))
    expected = {n for m in ("fastoptim", *names.modules()) for n in names.names(m)}
    assert expected - anchors == set()
    assert {"fastoptim.Optimizer.step", "fastoptim.schedules.Cyclic.momentum"} < anchors


LOOKED_AT = [
    "index.html",
    "porting.html",
    "rules.html",
    "performance.html",
    "api/fastoptim.Adam.html",
]
MEASURE = """<!doctype html><body><iframe width="{width}" height="800"></iframe><script>
const frame = document.querySelector("iframe"), pages = {pages}, found = [];
const next = () => {{
  if (!pages.length) {{ document.body.textContent = "WIDTHS " + found.join(" "); return; }}
  frame.src = pages.shift();
}};
frame.onload = () => {{
  if (!frame.src) return;
  found.push(frame.contentDocument.documentElement.scrollWidth);
  next();
}};
next();
</script></body>"""


class Quiet(SimpleHTTPRequestHandler):
    """A server that says nothing."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [390, 1300])
def test_pages_fit_a_phone_and_a_desk(site, tmp_path, width):
    """In a browser no page is wider than the window: what is too wide scrolls by itself."""
    measure = MEASURE.format(width=width, pages=LOOKED_AT)
    (site / "measure.html").write_text(measure, encoding="utf-8")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    quiet = "--disable-gpu --disable-quic --no-first-run --disable-background-networking"
    command = [str(CHROMIUM), "--headless", "--no-sandbox", *quiet.split(), "--disable-sync"]
    command += ["--disable-component-update", f"--user-data-dir={tmp_path}", "--dump-dom"]
    command += [
        "--virtual-time-budget=20000",
        "--hide-scrollbars",
        f"--window-size={width + 40},900",
    ]
    try:
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{server.server_port}/measure.html"],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    finally:
        server.shutdown()
        server.server_close()
        (site / "measure.html").unlink()
    found = re.search(r"WIDTHS ([\d ]+)", done.stdout)
    assert found, done.stderr
    widths = dict(zip(LOOKED_AT, map(int, found[1].split()), strict=True))
    assert widths == dict.fromkeys(LOOKED_AT, width)


def test_examples_on_the_pages_are_those_of_the_docstrings(site):
    """The examples that tests run from docstrings are what the pages show."""
    page = html.unescape((site / "api" / "fastoptim.SGD.html").read_text(encoding="utf-8"))
    shown = re.sub(r"<[^>]+>", "", page)
    (test,) = doctest.DocTestFinder(recurse=False).find(fo.SGD, "SGD", globs={})
    assert test.examples
    for example in test.examples:
        assert f">>> {example.source}".strip() in shown
