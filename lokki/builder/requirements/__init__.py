"""What a flow requires beyond itself, and which of it each step's package holds.

Requirements are lines as in a requirements.txt; uv resolves and installs them, lokki chooses from what is installed.
The stages, which `lokki.builder.builder` calls one after the other:

1. `find.find_requirements` reads what the flow's file or its project says (`pyproject`, `requirements_file`),
   or asks a build backend (`build_backend`). The result names where packages come from, too: `origins`.
2. `resolve.resolve` finds the version of each package for Lambda: the one that is installed here wherever that is
   possible, so that what ran here runs there.
3. `vendoring.install_once` installs these versions for Lambda, compiles them, and packs them into one archive;
   `distributions` reads which packages are there, and which of them lead to which others.
4. `choose.choose` gives each step the packages that it needs. `needs` reads that from the step's own code, statement by
   statement (`statements`), and from the values that come to it: `plain_results` proves that a step hands on nothing
   but plain values of Python, which need no package to be read.

`uv` runs uv, and `cache` remembers answers between builds: an unchanged build runs nothing.

What must never happen:

- A package is left out that a step's code, or a value that comes to it, could import: in doubt it stays.
- A package is built here and shipped, unless it is nothing but Python: Lambda is another machine.
- A password of an index reaches a package, a template or a report.
- The cache answers what would be answered otherwise now: its keys hold all that decides.

Start reading at `find.find_requirements`, then `resolve.resolve`, then `choose.choose`.
"""
