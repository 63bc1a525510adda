"""An imitation of AWS on loopback, for tests: what lokki deploys and runs on, as far as its pages tell.

Where lokki's emulator runs one flow for its user, this imitates an account for the tests: real sockets, the APIs' own
shapes, and refusals as AWS words them. Read these first:

* ``loopback_aws``: the account, with an address for boto3. ``account`` is a fixture: one for each test process.
* ``loopback_protocol``: requests and answers of AWS's four protocols; the ``loopback_*`` modules beside it hold a
  service each: ``stacks``, ``changes``, ``template`` and ``resources`` are CloudFormation; ``states``, ``machines``,
  ``runs`` and ``history`` Step Functions; ``functions`` Lambda; ``logs`` CloudWatch Logs.
* ``moto_server``: moto, which others wrote, for S3, IAM and ECR. ``aws`` is its fixture.
* ``ministack_server`` and ``ministack_program``: MiniStack, a third account, in an environment of its own.
* ``policies``: an evaluator of IAM's rules, held against moto's. ``documents``: examples of AWS's own pages.
* ``fake_account``, ``deployed``: doubles without a socket, for what only asks a few questions.

An imitation proves what its pages say and no more: docs/verification.md tells what remains to be seen on AWS itself.
"""
