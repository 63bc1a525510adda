"""S3 on this machine: a server on loopback with one bucket, for one run.

`client.S3Server` starts a process of its own (`server`), which serves moto's S3, and speaks to it for the state
machine; functions reach it by the variables that `client` makes for their environment. The server's way with a
request:

1. `access` says who may ask: only requests with the run's secret as their session token, or with one that they got by
   assuming a role. All others are refused, and moto's own pages answer nobody.
2. The request is logged, so that tests can compare what was asked for with what a role's policy allows.
3. `faults` says, from a seed, whether it is refused with 503 or answered late.
4. moto answers it.

A process of its own, since moto's state is global to a process, and its threads would compete with the interpreter's.
It gets its options on standard input, never by its command line, which everybody on the machine can read. It ends
when that input does, so that it cannot outlive the run, and writes the objects into the run's folder then.

What must never happen: that an object comes from anybody but the run itself, since steps unpickle what they read;
that a key of a user's leads out of the run's folder when the objects are written.
"""
