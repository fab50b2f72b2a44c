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

default_role = "code"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_type_aliases = {name: name for name in ("Backoff", "Interrupt", "Jitter", "Listener", "Matcher", "Seconds")}
autodoc_default_options = {"show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"resilient {release}"

# Nobody makes these by hand: what `__init__` takes is no part of the contract.
MADE_BY_OTHERS = {
    "Attempt",
    "Chaos",
    "CircuitBreaker",
    "FakeClock",
    "Pipeline",
    "Policy",
    "RecordedEvents",
    "Retry",
    "Timeout",
}


def hide_init(app, what, name, obj, options, signature, returns):
    return ("", None) if what == "class" and name.rpartition(".")[2] in MADE_BY_OTHERS else None


def setup(app):
    app.connect("autodoc-process-signature", hide_init)
