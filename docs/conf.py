"""Sphinx configuration; `nox -s docs` builds with warnings as errors."""

from importlib.metadata import version as version_of

project = "resilient"
author = "The resilient authors"
copyright = f"2026, {author}"
release = version = version_of("resilient-py")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"resilient {release}"
