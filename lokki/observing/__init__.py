"""What is known of a run, made of its events, for every engine and for no Lambda function.

* `report` folds events into what is known of a run. Progress, summaries and endings are drawn from it.
* `spans` makes spans of OpenTelemetry of events, where somebody collects them.
* `translating` puts what AWS and the emulator say into the words of a local run.

Engines and whatever looks at runs call them. What must never happen: that a run is told of differently by where it ran,
or that a function on Lambda pays for what is told here. Start reading at `report.fold`.
"""
