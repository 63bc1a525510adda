"""What the roles of functions allow, held against what their code asks of AWS.

On AWS every request of a step's code is signed with the keys of its function's role, and the service asks IAM. Here the
server of an emulation (`lokki.emulator.s3.server`) does both, for S3 and for services that speak JSON or Query:

1. `policies` reads the statements of a role from the template that was built, and decides: is this allowed?
2. `s3_needs` and `service_needs` turn a request into what IAM would check, each an action on a resource.
3. `denials` writes the refusal as the service itself would, so that an SDK raises what it raises on AWS.
4. `checking` is the server's layer that does this with each request, and keeps what was missing.
5. `suggestions` turns what was missing into the lines to add to ``@step(permissions=[…])``.

What must never happen: that something is refused here which AWS would allow. A request whose action is not known is
let through, and so is whoever is no function of the flow: the state machine, and keys of roles that a step assumed.
Start reading at `policies`.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""
