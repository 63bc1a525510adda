"""What runs inside AWS Lambda: the handler of a step.

1. `handler.packaged_handler` is called once, when Lambda starts a function; `restoring` does again what a snapshot
   holds.
2. `event` checks what Step Functions sent, and gives it a type.
3. `work` does one invocation: it reads what is upstream, runs the step and writes the result; `batches` does it for
   the items of a batch. `sending` uploads the items of a map block while they are made, `results` collects the
   results of one, and `regrouping` makes items of results, between the levels of maps below maps.
   `taking_over` answers for what an earlier run did, and `cost_limit` ends a run before a map that is too dear.
4. The reply says where the result is, and `log` writes one JSON line for each thing that happened; `tracing` tells a
   collector.

Events and replies are described in `docs/contract.md`, and the state machine that sends them is made by
`lokki.builder.state_machine`. What must never happen: that a value of the user's gets into lokki's log, that a step is
called with what an event cannot mean, or that a cold start loads what the function does not need. Start reading at
`handler`.
"""
