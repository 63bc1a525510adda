"""Runs a built flow on this machine as AWS would. Needs the extra ``emulator``.

What ran locally runs deployed; the emulator is how that is shown without an account. It executes exactly the files
that a build wrote, in stages:

1. `session` makes the run's folder and its record, as for a local run, and reports the run from start to end.
2. `template` reads the bundle: the template's functions, the state machine, and the packages, which it unpacks.
3. `run.Emulation` starts what stands for AWS, and ends all of it: `scratch` (a folder that is gone afterwards,
   however that comes about, by its `reaper`), `s3` (a server for the data, and for all that steps ask of AWS, which
   `iam` holds against their roles) and `functions` (a process for each execution environment). `secret_store` puts
   the values of secrets there.
4. `states` interprets the state machine. It invokes functions and reads and writes objects through protocols alone.
5. Each event of the history goes to `history.jsonl` and to `translation`, which turns it into lokki's own events. So
   a run is shown, reported and read like a local one. `run_files` has the names of what stays in the run's folder.

Who calls whom: `session` calls `run`; `run` calls `states`, and gives it `functions` and `s3`. `states` knows
neither, and `functions` and `s3` do not know each other: a step's code finds S3 by the variables in its environment,
as on Lambda.

What must never happen:

- that a flow works here and fails on AWS, where that can be known: what the emulator does not know it refuses, with
  its name;
- that a process, a folder or a lock of a run outlives it, even when it is killed;
- that another user of the machine, or a page in a browser, reads a run's data or plants an object that a step
  unpickles.

This package imports nothing, and `run_files` next to nothing: reading an emulated run needs no extra. Start reading
at `session.Session.run`, then `run.Emulation.__enter__`. `docs/emulator.md` says for users what is as on AWS and what
is not.
"""
