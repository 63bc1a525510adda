"""Building a flow for AWS: packages, a state machine and a template, in one folder.

A build compiles what `lokki.plan` has lowered. Its stages, which `builder.Builder` calls one after the other:

1. `settings.check_settings` refuses settings with which nothing could be deployed.
2. `compiled.compile_flow` lowers the graph, once. `Compiled` holds the plan, the settings and the functions; `names`
   says what all of it is called on AWS, and `timing` how long its parts may take. What comes later takes a `Compiled`,
   never a plan and settings side by side.
3. `packages` collects what the flow needs of its project, and `requirements` what is required and installs it. These
   two folders are the only ones that look at this machine: everything else here is a pure function of values.
4. `builder.assemble` makes a `Bundle` of all this, which is a value: `lambda_pkg` the folder of each step,
   `state_machine` the definition, `cloudformation` the template around it.
5. `packages.folder.write_bundle` puts the bundle in place of the last build.

`wiring` says how values get from state to state: what is handed on, and what is left in variables. The definition is
made of `tasks`: `call_states` has those of a call, with rules of `retries` for what fails, and `map_states` what an
item goes through; `batches` has the states of a call on a batch, with the search for the item at fault, and `states`
says which state is which operation of the plan. `placeholders` lists what the definition leaves open, and what fills
it. The template has the functions with their `environment`, and the roles of `permissions`, and is written by
`template_text`; `starts` has what starts runs by events, `notifications` what tells of their ends, and `dead_letters`
what both are made of.
`cost_limits` has what functions know of what a run may cost.
`checks` is ``build --check``: limits of AWS, those of a run in `machine_limits`, and cfn-lint.

`lokki.emulator` runs what was written, `lokki.deploy` deploys it, and `lokki.estimate` counts what it would do.

What must never happen:

- Equal input gives other bytes. Functions and versions are named by hashes of what they hold, so a changed byte is a
  deployment.
- A definition, a name or a policy that AWS refuses is found in the middle of a deployment, when it could be found here.
- A failed build leaves half a folder, or touches the last one.
- A throttled run fails. Children of maps are STANDARD and wait, unless the user says ``execution_type: EXPRESS``.
- Numbers of AWS stand here: they are in `lokki.base.quotas`, each once, with its page.

Start reading at `builder.Builder.build`, then `builder.assemble`, then `state_machine.state_machine_of`.
"""
