"""Values, names and checks that know nothing of flows.

Every other folder imports from here, and this folder imports `lokki.errors` alone. It ships to Lambda and is part of
every cold start: what only some functions need is imported inside them.

* Values: `values` (JSON, and references to stored values) and `convert` (arguments and parameters as JSON and back, by
  annotations that `signatures` reads; `checking` refuses keys that would be dropped).
* Names: `naming` (flows, calls, states, runs) and `item_path` (an item of a map block).
* What users set: `options`, and what a step may touch: `access`. `variables`: which of the environment a function may
  have, and whether it is traced. What AWS allows: `quotas`, each number once, with its page.
* `failures` describes an error of the user's for people.

What must never happen: that a value arrives as another one without an error, or that the code of a user's class
breaks lokki while its error is described. Start reading at `values`.
"""
