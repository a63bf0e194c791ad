"""Sphinx: how `make docs` builds the site from the Markdown files in this folder."""

project = "posttrain-engine"
author = "The posttrain-engine authors"
project_copyright = "The posttrain-engine authors. Apache License 2.0"

extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["generate", "_build"]

html_theme = "furo"
html_title = "posttrain-engine"
html_show_sphinx = False
html_copy_source = False

nitpicky = True
