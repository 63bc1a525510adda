"""Runs a plan on this machine, so that whatever ends the run, nothing that was finished is computed again.

`lokki.runner.LocalRunner` is the door: it lowers the flow, makes a run folder or opens the one to resume, takes its
lock, and hands the plan to an execution. From there one stage calls the next:

1. **execution** goes through the operations of the plan in order and skips those whose outcome is there. A step that
   runs once runs on the main thread or that of its branch; **calls** writes its result before its outcome. `again`
   decides what of a resumed run is forgotten first, **schedule** what else depends on that; **resuming** removes it.
   **run_values** reads what a call is called with, anew for each; **side_by_side** has the threads of branches, and
   what they share.
2. **mapping** and **feed** share a map block out: the feed hands its unfinished items out in chunks of about 50 ms, the
   dispatcher counts what comes back and stops the block when more items failed than it tolerates.
3. **threads**, **processes**: the executors. Threads (and ``inline``) call the worker in this process. With processes,
   `processes` starts a Python that imports libraries alone (**worker_server**), which forks a worker each time it is
   asked; **serving** feeds the workers over pipes and takes over what dead ones leave; **worker_process** is the
   worker's end of a pipe.
4. **worker** runs the inner steps on each item, whichever executor it is on, and writes every result to a part of its
   own. **body** says what each of them reads where they are no line, **shared_values** has what all items read.
5. **journal** is the format of such parts and their writer; **journal_reader** is the one reader, for resuming, for the
   step after the block, and for `lokki.results`. **ready_results** spares that step most of the reading, where threads
   run the block and there is memory for it (**free_memory**).

Beside them: **runs** has the records and locks of all runs, **folder** the names and files of one, **outcomes** the
journal that says what has ended (and **disk** when it is forced there), **seal** and **checksums** what binds a file to
its run, **written_items** the items of a map; **output**, **streams** and **levels** take what steps print and log.

What would surprise a reader stands behind a wall, a module each with a "Why": **descriptors** (``dup2``, C's buffers),
**detached** (arrays that nobody else refers to), **forks** (what a child that a step forks must let go of), **exits**
(how forked processes end), **interrupts** (Ctrl-C, SIGTERM, SIGHUP), **libraries** (what workers may share),
**own_thread** (a run inside of a notebook's event loop), and `lokki.engine.async_exceptions` (late steps).

What must never happen:

* A result counts that is not whole, or is another run's: every file is checked when it is read.
* A finished result is lost in a kill, or in a power cut more than a second later: a pack is written before the journal
  that names its bytes, an outcome after everything that it names (and is forced to disk within a second itself).
* Two processes go on with one run: the lock is shared with the workers, and held until the last of them has ended.
* A child that a step forked returns into the run, writes to its files, answers its parent or keeps its lock.
* An error of lokki's is taken for a failure of the step, or a failure of the step for an error of lokki's.
* The flow's file is imported by the process that workers are forked from.

Where to start reading: `execution.LocalExecution.execute`, then `worker.Worker.run`, then the first lines of `journal`.
"""
