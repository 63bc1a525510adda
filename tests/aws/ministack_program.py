"""MiniStack, with what it lacks for lokki's state machines added from outside; run by MiniStack's own Python.

It has no resource types for versions and aliases of state machines, though its Step Functions has both, and its
distributed map knows no JSONata, batches or result files. Both are put into its tables of functions here, written after
AWS's pages: nothing of MiniStack is copied.
"""

import contextvars
import copy
import json
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import boto3
from ministack.app import main
from ministack.services import stepfunctions
from ministack.services.cloudformation import provisioners

FAILED = "States.ExceedToleratedFailureThreshold"


def called(operation, **parameters):
    """Call an operation of Step Functions; return its answer. Raises ValueError for one that it refuses."""
    status, _, body = operation(parameters)
    answer = json.loads(body)
    if status != 200:
        raise ValueError(answer.get("message") or answer)
    return answer


# --- https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/AWS_StepFunctions.html ---


def create_version(logical_id, properties, stack):
    machine, revision = properties["StateMachineArn"], properties.get("StateMachineRevisionId")
    answer = called(stepfunctions._publish_state_machine_version, stateMachineArn=machine, revisionId=revision)
    return answer["stateMachineVersionArn"], {"Arn": answer["stateMachineVersionArn"]}


def update_version(physical_id, before, properties, stack, logical_id=None):
    return create_version(logical_id, properties, stack)


def delete_version(physical_id, properties):
    called(stepfunctions._delete_state_machine_version, stateMachineVersionArn=physical_id)


def routing(properties):
    return [
        {"stateMachineVersionArn": each["StateMachineVersionArn"], "weight": int(each["Weight"])}
        for each in properties["RoutingConfiguration"]
    ]


def create_alias(logical_id, properties, stack):
    answer = called(
        stepfunctions._create_state_machine_alias, name=properties["Name"], routingConfiguration=routing(properties)
    )
    return answer["stateMachineAliasArn"], {"Arn": answer["stateMachineAliasArn"]}


def update_alias(physical_id, before, properties, stack, logical_id=None):
    changed = {"stateMachineAliasArn": physical_id, "routingConfiguration": routing(properties)}
    called(stepfunctions._update_state_machine_alias, **changed)
    return physical_id, {"Arn": physical_id}


def delete_alias(physical_id, properties):
    called(stepfunctions._delete_state_machine_alias, stateMachineAliasArn=physical_id)


# --- https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html ---


class MapRun:
    """One run of a distributed map in JSONata."""

    def __init__(self, state, given, processor, execution, context):
        self.state, self.given, self.processor = state, given, processor
        self.execution, self.context = execution, context
        machine = execution["stateMachineArn"].rpartition(":")[2]
        place = ":".join(execution["stateMachineArn"].split(":")[3:5])
        self.path = f"{machine}/{state['Label']}"
        self.id = str(uuid.uuid4())
        self.arn = f"arn:aws:states:{place}:mapRun:{self.path}:{self.id}"
        self.place = place
        endpoint = f"http://127.0.0.1:{os.environ['GATEWAY_PORT']}"
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": place.partition(":")[0]}
        self.s3 = boto3.client("s3", endpoint_url=endpoint, **keys)

    def fill(self, template, **more):
        return stepfunctions._apply_jsonata_template(template, self.given, {**self.context, **more})

    def run(self):
        items = self.items()
        shares = self.shares(items)
        run = self.told(len(items), len(shares))
        most = int(float(self.fill(self.state.get("MaxConcurrency", 0)))) or 64
        with ThreadPoolExecutor(min(most, 8, len(shares) or 1)) as pool:
            started = [pool.submit(contextvars.copy_context().run, self.child, share) for share, _ in shares]
            children = [each.result() for each in started]
        failed = sum(size for child, (_, size) in zip(children, shares, strict=True) if child["status"] != "SUCCEEDED")
        run["stopDate"] = now()
        for counts, size in ((run["itemCounts"], len(items)), (run["executionCounts"], len(shares))):
            lost = failed if counts is run["itemCounts"] else sum(each["status"] != "SUCCEEDED" for each in children)
            counts.update(pending=0, running=0, failed=lost, succeeded=size - lost, resultsWritten=size)
        result = self.write(children)
        run["status"] = "FAILED" if self.too_many(failed, len(items)) else "SUCCEEDED"
        if run["status"] == "FAILED":
            raise stepfunctions._ExecutionError(FAILED, "The specified tolerated failure threshold was exceeded")
        output = stepfunctions._apply_jsonata_output(
            self.state, self.given, self.context, result=result, default=result
        )
        stepfunctions._apply_state_assign(self.state, self.given, self.context, result=result)
        return output, self.state.get("Next")

    def items(self):
        place = self.fill(self.state["ItemReader"]["Arguments"])
        text = self.s3.get_object(Bucket=place["Bucket"], Key=place["Key"])["Body"].read().decode()
        if self.state["ItemReader"]["ReaderConfig"]["InputType"] == "JSONL":
            return [json.loads(line) for line in text.splitlines() if line]
        return json.loads(text)

    def shares(self, items):
        """Return the input of each child, and of how many items it is."""
        selector, context = self.state.get("ItemSelector"), self.context
        inputs = items
        if selector is not None:
            inputs = [
                self.fill(selector, Map={**context.get("Map", {}), "Item": {"Index": index, "Value": item}})
                for index, item in enumerate(items)
            ]
        batcher = self.state.get("ItemBatcher")
        if batcher is None:
            return [(each, 1) for each in inputs]
        size = int(float(self.fill(batcher["MaxItemsPerBatch"])))
        shared = {"BatchInput": self.fill(batcher["BatchInput"])} if "BatchInput" in batcher else {}
        parts = [inputs[start : start + size] for start in range(0, len(inputs), size)]
        return [({**shared, "Items": part}, len(part)) for part in parts]

    def told(self, items, children):
        """Keep what DescribeMapRun tells.

        https://docs.aws.amazon.com/step-functions/latest/apireference/API_DescribeMapRun.html
        """
        ended = ("succeeded", "failed", "timedOut", "aborted", "resultsWritten", "failuresNotRedrivable")
        empty = dict.fromkeys(("pending", "running", "total", "pendingRedrive", *ended), 0)
        run = stepfunctions._map_runs[self.arn] = {
            "mapRunArn": self.arn,
            "executionArn": self.execution["executionArn"],
            "status": "RUNNING",
            "startDate": now(),
            "maxConcurrency": 0,
            "toleratedFailurePercentage": self.tolerated()[1] or 0,
            "toleratedFailureCount": self.tolerated()[0] or 0,
            "itemCounts": {**empty, "total": items, "pending": items},
            "executionCounts": {**empty, "total": children, "pending": children},
            "redriveCount": 0,
            "_stateMachineArn": f"arn:aws:states:{self.place}:stateMachine:{self.path}",
        }
        return run

    def child(self, given):
        name = str(uuid.uuid4())
        child = stepfunctions._executions[f"arn:aws:states:{self.place}:execution:{self.path}:{name}"] = {
            "executionArn": f"arn:aws:states:{self.place}:execution:{self.path}:{name}",
            "stateMachineArn": f"arn:aws:states:{self.place}:stateMachine:{self.path}",
            "name": name,
            "status": "RUNNING",
            "startDate": now(),
            "stopDate": None,
            "input": json.dumps(given),
            "output": None,
            "mapRunArn": self.arn,
            "events": [],
        }
        context = copy.deepcopy({**self.context, "variables": {}})
        context["Execution"] = {**self.context["Execution"], "Id": child["executionArn"], "Input": given, "Name": name}
        try:
            states, start = self.processor["States"], self.processor["StartAt"]
            child["output"] = json.dumps(stepfunctions._run_sub_machine(states, start, given, child, context))
            child["status"] = "SUCCEEDED"
        except stepfunctions._ExecutionError as error:
            child.update(status="FAILED", error=error.error, cause=error.cause)
        child["stopDate"] = now()
        return child

    def tolerated(self):
        fields = ("ToleratedFailureCount", "ToleratedFailurePercentage")
        return tuple(None if name not in self.state else float(self.fill(self.state[name])) for name in fields)

    def too_many(self, failed, items):
        count, percentage = self.tolerated()
        if count is None and percentage is None:
            return failed > 0
        return (count is not None and failed > count) or (percentage is not None and failed * 100 > percentage * items)

    def write(self, children):
        """Write result files: https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html"""
        writer = self.state["ResultWriter"]
        place = self.fill(writer["Arguments"])
        bucket, folder = place["Bucket"], f"{place['Prefix']}/{self.id}"
        listed = {"FAILED": [], "PENDING": [], "SUCCEEDED": []}
        for kind in ("FAILED", "SUCCEEDED"):
            values = [
                value
                for child in children
                if (child["status"] == "SUCCEEDED") == (kind == "SUCCEEDED")
                for value in written(child, writer["WriterConfig"]["Transformation"])
            ]
            if values:
                body = json.dumps(values).encode()
                self.s3.put_object(Bucket=bucket, Key=f"{folder}/{kind}_0.json", Body=body)
                listed[kind].append({"Key": f"{folder}/{kind}_0.json", "Size": len(body)})
        manifest = {"DestinationBucket": bucket, "MapRunArn": self.arn, "ResultFiles": listed}
        self.s3.put_object(Bucket=bucket, Key=f"{folder}/manifest.json", Body=json.dumps(manifest).encode())
        return {"MapRunArn": self.arn, "ResultWriterDetails": {"Bucket": bucket, "Key": f"{folder}/manifest.json"}}


def written(child, transformation):
    """Return what is written of a child: its output, the members of that, or AWS's record of it."""
    if child["status"] != "SUCCEEDED" or transformation == "NONE":
        named = {"ExecutionArn": "executionArn", "Name": "name", "Input": "input", "Status": "status", "Error": "error"}
        return [{name: child[key] for name, key in {**named, "Cause": "cause"}.items() if key in child}]
    output = json.loads(child["output"])
    return output if transformation == "FLATTEN" and isinstance(output, list) else [output]


def now():
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def run_distributed_map(state, given, effective, processor, execution, context):
    return MapRun(state, given, processor, execution, context).run()


if __name__ == "__main__":
    handlers = provisioners._RESOURCE_HANDLERS
    handlers["AWS::StepFunctions::StateMachineVersion"] = {
        "create": create_version,
        "update": update_version,
        "update_with_logical_id": True,
        "delete": delete_version,
    }
    handlers["AWS::StepFunctions::StateMachineAlias"] = {
        "create": create_alias,
        "update": update_alias,
        "update_with_logical_id": True,
        "delete": delete_alias,
    }
    stepfunctions._run_distributed_map = run_distributed_map
    main()
