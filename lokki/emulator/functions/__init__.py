"""Lambda on this machine: the functions of a built flow, in processes like its execution environments.

https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html

An invocation goes through these, from the caller to the user's code:

1. `throttling` and `chaos` stand before the pool where they are asked for: an account's limit on concurrency, and
   faults that a seed decides. Both implement `states.services.Functions` around another one, as
   `pool.LambdaFunctions` does itself.
2. `pool` has the processes of all functions: a warm one takes the event, or a new one is started, at most so many at
   one time. A thread of its own looks at the time and memory that each has used.
3. `process.FunctionProcess` is one execution environment. It starts the program, gives it one event at a time, and
   turns its end into the errors that Lambda has: `Sandbox.Timedout`, `Runtime.OutOfMemory`, `Runtime.ExitError`.
4. `runtime_api` is the HTTP server that Lambda's own runtime client (`awslambdaric`) asks for events. `connections`
   tells it whose a connection is, as the client knows no secret that it could send.
5. `sandbox` decides what the process sees: a root of its own where Linux lets a user have one, else this machine less
   what variables can hide. `enter_sandbox` and `bootstrap` are the programs that the process starts as, one after the
   other; `hiding` has modules that stand before Python's own in the second kind of sandbox.

The programs are run by their path, and import Python's library only: in the sandbox there is no lokki but the one in
the user's package, as on Lambda.

What must never happen: that a function sees more of this machine than Lambda would show, without the user being told;
that a process or a file of one outlives the run; that anybody but a function's own process gets its events, or
answers them.

Start reading at `pool.LambdaFunctions.invoke`.
"""
