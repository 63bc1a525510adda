"""The commands, a module for each or for a few that belong together.

A module has a function ``<name>_command(graph, program, flow)`` for each of its commands, by which `lokki.cli.main`
makes the click command when it is called; ``runs`` and ``bootstrap`` need no flow. Where a command has many options,
they are a frozen dataclass, which `lokki.cli.options.read_options` fills from what click read, so that no value of a
wrong type goes further; few are plain arguments of the callback. The callback returns an exit code. It prints, and
calls what does the work.

==================================  ======================================================
`run`                               a flow on this machine, by `lokki.runner`
`emulate`                           what was built, on this machine, by `lokki.emulator`
`invoke` (also redrive, stop)       a deployed flow, by `lokki.operate`
`build` `deploy` `doctor`           from the flow to a stack on AWS, and back
`runs` `show` `logs` `replay`       what runs here or on AWS did
`estimate`                          what a run would cost
==================================  ======================================================

A new command is a module here and a line in ``FLOW_COMMANDS`` of `lokki.cli.main`.
"""
