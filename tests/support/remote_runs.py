"""The results of a deployed flow, read from a bucket and from whatever stands for Step Functions."""

from __future__ import annotations

from collections.abc import Mapping

from lokki.results.flow_results import FlowResults
from lokki.results.remote import Executions, RemoteCatalog
from lokki.store.s3 import S3Store


def remote_results(flow: str, *, bucket: str, executions: Executions, environ: Mapping[str, str]) -> FlowResults:
    """Return the runs of a flow that keeps its values in a bucket."""
    return FlowResults(flow, RemoteCatalog(flow, S3Store(bucket, f"lokki/{flow}/", environ=environ), executions))
