"""What a user sees of a run while it is in progress, and what is kept of it.

Every engine tells what happens as `lokki.engine.events`. They pass through here:

1. `run_log`: the `Recorder` takes events from any thread, folds them into the report, writes each to ``events.jsonl``
   in the run's folder and hands it to a display. One lock keeps all three in the same order.
2. `displays`: what shows events. `Words` has the line for each kind of event; `PlainLines` writes them, `LiveBars`
   draws them above bars on a terminal, `JsonLines` writes events for programs, `Nothing` is ``--quiet``.
3. `bars` and `row`: how rich draws a row, and which of its facts fit into a narrow terminal. rich is imported only
   where there is a terminal, since that takes a tenth of a second.
4. `notebook`: lines below a cell, drawn anew in their place.

`launching` stands beside them: it is `Flow.run` and `Flow.resume` from Python, with a display for where it is called.

What must never happen: a run that fails because the terminal has gone, the disk is full or a pipe is closed; a worker
that waits for the terminal to be drawn; a line of the log that is cut off by another thread's.
"""
