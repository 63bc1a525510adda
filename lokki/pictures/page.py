"""A drawing as a page of its own, which a browser shows without anything from elsewhere."""

from __future__ import annotations

from html import escape

from lokki.pictures.shapes import plain
from lokki.pictures.svg import svg
from lokki.plan import Plan

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
body {{ margin: 0; background: #ffffff; color: #1f2328; font-family: system-ui, sans-serif }}
main {{ max-width: max-content; margin: 0 auto; padding: 8px }}
h1 {{ font-size: 20px; margin: 8px 16px 0 }}
p {{ margin: 4px 16px; max-width: 70ch; white-space: pre-line }}
.drawing {{ overflow-x: auto }}
.drawing svg {{ max-width: none }}
@media (prefers-color-scheme: dark) {{ body {{ background: #0d1117; color: #e6edf3 }} }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
{text}<div class="drawing" tabindex="0">
{drawing}</div>
</main>
</body>
</html>
"""


def page(plan: Plan, doc: str = "") -> str:
    """Write a page with the drawing of a plan.

    ``doc``: what the flow's function says of it.
    """
    text = f"<p>{escape(plain(doc))}</p>\n" if doc else ""
    return _PAGE.format(title=escape(plan.flow), text=text, drawing=svg(plan))
