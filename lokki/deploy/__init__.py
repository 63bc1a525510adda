"""Deploying what was built: look, plan, say, do; and taking it away again.

A deployment goes through these stages, each in a module of its own:

1. ``aws``: the account and the region, with clients that retry what is throttled. All that boto3 raises becomes a
   line for users here, by ``aws_errors``.
2. ``own_bucket``, ``bucket``: where packages and results lie. A bucket that a deployment cannot use is refused before
   anything changes.
3. ``deployment.plan``: compares a build with what is deployed. The plan is a value: files to upload, images to build,
   CloudFormation's change set. To have a change set, the plan asks CloudFormation to create one; nothing else is
   touched.
4. ``changes``: says a plan in words, by comparing two templates. Pure.
5. ``deployment.deploy``: carries the plan out: uploads, then ``images``, then ``stack`` executes the change set and
   follows its events, then ``live`` points new runs at the new version. A dry run is the first four stages.

What happens later has modules of its own: ``live`` rolls back, ``pruning`` deletes versions that nothing needs,
``removal`` takes a flow away, ``doctor`` checks what a deployment would need, ``deployed`` finds what is there.

What must never happen:

* A run in progress loses its code: the state machine invokes versions of functions, and versions outlive the stack's
  update.
* A deployment that fails leaves half of it: CloudFormation rolls back, and the alias moves last.
* Something of somebody else's is changed or deleted: stack, bucket and repository are looked at before they are
  touched.
"""
