"""Sphinx settings: ``make docs`` builds the site from the pages here and from the code."""

import sys
from pathlib import Path

from plotly.offline import get_plotlyjs

import prunerzero

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from generate_pages import PLOTLY, write_pages

project = "prunerzero"
copyright = "The Pruner-Zero developers, Apache-2.0"
release = version = prunerzero.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4  # the anchors that a page has on GitHub
myst_enable_extensions = ["deflist"]

smartquotes = False  # "--" is the beginning of an option
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"prunerzero {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False


def setup(app):
    here = Path(__file__).parent
    (here / "_static" / PLOTLY).write_text(get_plotlyjs(), encoding="utf-8")
    write_pages(here)
