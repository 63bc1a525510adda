"""What a run on AWS would cost and how long it would take, before it is started.

An estimate is counted from the plan, as the bill is: no run is simulated. The command ``estimate`` calls these:

1. `measured.measure_latest_run` reads from the latest local run how long steps took and how much they returned. Its
   module is the only one here that reads files. What the command line says overrules it, and together they are a
   `cost.Workload`.
2. `cost.estimate` counts transitions, child executions, requests and gigabyte-seconds, and the least time.
3. `prices` turns these into dollars. Each price stands with its page and the day on which it was read.
4. `limits.problems` compares the same numbers with what AWS allows, and names the setting that avoids each problem.
5. `savings.savings` says where children of maps would cost less, by ``batch=`` or ``execution_type: EXPRESS``.

What must never happen: a count that differs from what the emulator counts for the same flow (a test compares them for
random flows), and an advice that cannot be built.

`lokki.builder` counts by `cost` and `prices`, too: what functions are told of ``@flow(max_cost=…)``.

docs/estimate.md calculates five flows by hand, and a test holds `cost` to it. Start reading there, then at
`cost.estimate`.
"""
