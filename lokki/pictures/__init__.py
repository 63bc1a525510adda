"""Pictures of flows, for READMEs, notebooks and reports.

A picture is made as a sentence is: the plan's own tree says what comes after what and what stands beside what, and a
picture of the whole is put together from those of its parts.

=============  ======================================================================================
`shapes`       boxes, wires and what they make: a `Picture` with one entry at its top and one exit below
`combining`    pictures below one another, beside one another, and in a frame
`flow_figure`  the picture of a plan; with marks, of a run of it
`svg`          a picture as SVG
`mermaid`      a plan as text for Mermaid, which GitHub and many wikis draw
`drawing`      a plan as text for terminals
`page`         a drawing as a page of its own
=============  ======================================================================================

`cli/commands/draw.py`, `Flow._repr_svg_` and `lokki.reports` call them. All of it is pure: a plan goes in, a text comes
out, byte for byte the same on every machine. So no width is measured: letters are of one width, and wide ones count
twice. Nothing here may ship to Lambda, and but for `drawing` nothing is imported to run a flow. Start reading at
`flow_figure.figure_of`.
"""
