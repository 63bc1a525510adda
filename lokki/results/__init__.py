"""Results of runs, wherever they ran: for Python, notebooks and the command line.

`flow_results` is what users see: `FlowResults`, `Run` and the `Items` of a map block, which load a value when it is
touched. Behind it stands a `Catalog` of runs, and what one run keeps (`items.Kept`), of which there are three kinds:

* `local` reads the folder of a local run through `lokki.local_run`, and nothing is written, locked or repaired.
* `remote` reads S3, and asks Step Functions for the rest by the `History` protocol; `lokki.operate` implements it.
* `emulated` is `remote` over the files that an emulated run left, and needs nothing of the emulator's extra.

Around them:

* `log` reads what a run on this machine printed.
* `modules` finds the flow's own classes, whatever its file was called where the run was.
* `replay` runs one step again on the input that it had, from any kind of run, with a debugger if wanted.
* `frames` makes data frames of values and of runs, where there is pandas.
* `html` draws tables for notebooks.

All three kinds read results as the next step of the flow reads them: a map's results by `lokki.store.map_results`, a
journal by `lokki.local_run.journal_reader`. What must never happen: that a value is shown which the flow would have
refused, that reading a run changes it, or that a value is unpickled before it is asked for. Loading runs code that the
values name, so only what the user's own flows wrote is read. Start reading at `flow_results`.
"""
