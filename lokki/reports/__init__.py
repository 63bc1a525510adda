"""The report of a run as one HTML file: what ran when, what failed and why, how long items took, what it would cost.

It is made of the events that progress bars and `show` are made of, so that local, emulated and deployed runs have the
same report. In order:

============  ====================================================================================
`timed`       reads the events of a run with their times: from its log here, from its history on AWS
`gathering`   folds them into `RunFacts`, in one pass and in bounded memory, however many items
`facts`       what is known then, as values
`samples`     fetches what failed items were given, and what they printed
`comparing`   holds one run against another
`costs`       estimates what the run would cost on AWS
`page`        fills the template `templates/report.html`
============  ====================================================================================

`writing.write_report` calls them in this order, and the commands ``run --report``, ``runs report`` and ``show --html``
call it. What must never happen: that the page asks the network for anything or runs a script (its own policy forbids
both), that a text of the user's becomes a part of the page and not a text in it, or that it grows with the number of
items: lists are cut off and say so. Start reading at `facts.RunFacts` and `gathering.Gathering`.
"""
