"""How the site is built: ``sphinx-build -W -n docs docs/_build``, with `--group docs` installed.

Nothing is fetched from the network, neither here nor by the pages.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_sphinx"), str(HERE.parent)]
os.environ["FASTOPTIM_CACHE_DIR"] = str(HERE / "_build" / "rules")  # of the gallery's own rules

import fastoptim  # noqa: E402  # from this folder's own checkout

project = "fastoptim"
author = "The fastoptim developers"
project_copyright = "the fastoptim developers"
version = release = fastoptim.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
    # of this site, in _sphinx/
    "api_pages",
    "formulas",
    "links",
    "records",
    "rules_table",
]
exclude_patterns = ["_build", "gallery_scripts"]
templates_path = ["_templates"]
# Gallery pages are scripts, too, and numpydoc has its own reading of default roles.
suppress_warnings = ["config.cache"]
nitpicky = True
default_role = "name"

autodoc_typehints = "none"  # numpydoc's sections describe what signatures annotate
autodoc_member_order = "bysource"
autodoc_mock_imports = [
    name for name in ("autograd", "sklearn", "thinc", "torch") if find_spec(name) is None
]
autosummary_generate = True
autosummary_imported_members = True
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = "fastoptim"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"
html_theme_options = {"top_of_page_buttons": []}
pygments_style = "default"

sphinx_gallery_conf = {
    "examples_dirs": "gallery_scripts",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "abort_on_example_error": True,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 1e9,  # no page says how long something took at build
    "download_all_examples": False,
    "remove_config_comments": True,
    "write_computation_times": False,
    "image_srcset": ["2x"],
}
