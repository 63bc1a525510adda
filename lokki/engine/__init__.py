"""What every engine shares: the local run, Lambda and the emulator.

* `invocation` calls a step: it binds arguments, retries and limits time. All engines go through `invocation.run`, so
  that a step gets the same everywhere; `limits` has the clocks and `context` says at which step and item a thread is.
* `events` is what happens in a run, as frozen values. The local run emits them, and histories of AWS and of the
  emulator are translated into them.
* `async_exceptions` ends a step whose time is up.
* `batch_size` says how many items a batch has that sizes itself.
* `causes` reads what Lambda and Step Functions say of a failure.

What must never happen: that two engines treat the same failure or retry in two ways. What is decided here is decided
from values; clocks and threads are in `limits`, `context` and `async_exceptions`. Start reading at `invocation.run` and
`events`.
"""
