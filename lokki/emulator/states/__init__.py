"""An interpreter of Amazon States Language: runs state machines as Step Functions does.

https://docs.aws.amazon.com/step-functions/latest/dg/concepts-amazon-states-language.html

Two stages, which know nothing of each other's working:

1. **Reading.** `definition.read_definition` turns a definition into a `StateMachine` of frozen values, once. Every
   field is read by `fields.Fields`, which refuses a field that nobody read, a number outside AWS's range (`ranges`)
   and a word that AWS does not know. What AWS would refuse at CreateStateMachine is refused here, with the names of
   state and field.
2. **Running.** `branch.Branch` goes from state to state. It evaluates JSONata (`expressions`), applies Retry and
   Catch (`rules`, `failures`), and Output and Assign (`transition`). `execution.Execution` is around it: identity,
   time, limits (`outcome`), and every event (`history`). It can be redriven, also from a `snapshot` in another
   process.

A kind of state is one frozen dataclass that implements `state.State`: it reads itself, says where it may lead, and
does one try of its work in a `state.Visit`. `task`, `choice`, `map_state`, `parallel` and `simple_states` hold them.
**A new kind is such a class and one line in `definition.STATE_TYPES`**; neither branch nor execution changes. A state
with states of its own reads them through its `LevelReader`, and runs them in branches, or in child executions as
`map_state` does with `map_run`. What it has begun goes into `Visit.progress`, so that a redrive continues it.

A Parallel state runs a `Branch` for each of its branches on a thread (`parallel_run`). Each sees the execution through
a `BranchExecution`, which lets nothing more happen once another branch has failed.

A map's way: `map_input` reads the items and cuts them into shares (`items`), `map_run` runs a child execution for
each share on threads, and `results` puts what came out into files as ResultWriter does.

What must never happen: that the interpreter touches a file, a process or a network by itself. All that is outside
comes in through the protocols of `services`. So this folder imports errors, JSON values, AWS's numbers and nothing
else of lokki, and tests run it with functions in Python, objects in a dict, and time that is skipped. Nor may it be
kinder than AWS: where the documentation leaves something open it takes the reading that breaks more.

Start reading at `state`, then `branch`.
"""
