"""Where results are kept: objects under the prefix of a flow, in S3 or in a folder.

* `base` says what a store can do, and saves and loads values: small ones travel inline, others become objects.
* `codec` turns values into bytes: a pickle in one gzip member, whose checksum is verified before it is unpickled.
* `keys` names the objects of a run. Nothing else makes up a key.
* `manifest` makes of the items of a map block one pack and one list; `map_results` reads what became of them, as Step
  Functions lists it. `takeover` is what a run has of an earlier one.
* `s3` and `local` are the two stores. `profile` and `container` find the keys for S3 that obstore does not find.

Called by `runtime` in Lambda, `local_run` here, and `results`, which reads what either wrote. What must never happen:
that a store reads or writes outside of its prefix, that half an object can be seen, or that bytes are unpickled which
are not those that were written. Start reading at `base`.
"""
