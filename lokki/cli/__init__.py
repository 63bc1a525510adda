"""The command line: ``python flow.py run`` through `lokki.main`, and ``lokki run flow.py``.

Start reading in `main`. A command goes through these stages:

1. `main` finds the flow, draws it and makes the command that was called. Its module in `commands` is imported only
   then, so that ``--help`` and ``run`` start without boto3, the builder and the emulator.
2. `options` has what commands share. `parameters` turns the flow's parameters into options and their text into JSON,
   checked by the step's annotations before anything runs. `account` finds a deployed flow. What a command works with is
   imported when it works, so that its own ``--help`` does not wait for it: `local_runs` for ``run``.
3. The command calls what does the work: `lokki.runner`, `lokki.builder`, `lokki.emulator`, `lokki.deploy`,
   `lokki.operate`, `lokki.results`. Nothing is decided here that `lokki` in Python would decide otherwise.
4. While a run is in progress, `lokki.progress` shows its events on stderr.
5. `last_words` says how the run ended, in the same words for every kind of run: the result to stdout or, by `output`,
   to a file; or why there is none and how to resume, to stderr.
6. `main` turns every other error into one line and an exit code, and `ending` ends the process.

What must never happen: anything but the result on stdout; a traceback of lokki's own for a mistake of the user's; half
a file for ``--output``; the end of a process that is not there for the command alone.

`program` knows how the user called this program, for hints that can be typed as they are, and `text` how things are
written for people. Only this folder imports click.
"""
