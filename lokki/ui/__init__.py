"""The page of runs: ``lokki ui`` serves reports and logs to a browser on this machine, live and read-only.

The pages are those of `lokki.reports`, made anew for each request from the same events, so that a run is watched as it
is reported. In order:

==========  ==========================================================================================
`listing`   which runs a page of the list shows: filters, order, paging
`logs`      parts of a run's log, read from its end backwards
`sources`   what runs are read from: `RunSource` and what it gives
`folder`    the runs on this machine, emulated ones too
`deployed`  the runs of a deployed flow
`failures`  the failed items of a run
`pages`     fills the templates in ``templates/``
`app`       which address is which page
`guard`     lets in who has the secret, from this machine, to read
`server`    the socket, and what serves it
==========  ==========================================================================================

The command `lokki.cli.commands.ui` calls `server.serve_pages` with sources. Each page works without its script, which
only fetches the page again while a run goes on and puts in what has changed. What must never happen: that anything
changes a run, that a page answers who has no secret or comes under another host's name, that a text of a run becomes
part of a page, or that one damaged run hides the others. Starlette and uvicorn are the extra ``ui`` and nothing else
imports this folder. Start reading at `app.make_app` and `sources.RunSource`.
"""
