"""The numbers of AWS that lokki obeys, each once, with the page that says so.

They were read in November 2026, in botocore 1.44.8 and in stored copies of the pages.
"""

from __future__ import annotations

# --- Lambda: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html ---

FUNCTION_SECONDS = 1_800
"""Longest timeout of a function: 30 minutes since November 2026.
https://docs.aws.amazon.com/lambda/latest/api/API_CreateFunction.html#lambda-CreateFunction-request-Timeout"""

PYTHONS = ((3, 13), (3, 14), (3, 15))
"""The versions of Python that functions may have and lokki runs on.
https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtimes.html"""

LEAST_MEMORY = 128
MOST_MEMORY = 10_240
"""Megabytes of a function's memory. More is for functions on instances of one's own, which lokki does not use."""

LEAST_DISK = 512
MOST_DISK = 10_240
"""Megabytes of a function's /tmp.
https://docs.aws.amazon.com/lambda/latest/api/API_EphemeralStorage.html"""

UNZIPPED_BYTES = 262_144_000
"""A function's code, unzipped, with its layers: 250 MiB."""

LAYERS = 5
"""Layers of a function."""

IMAGE_BYTES = 10 * 2**30
"""A function's image, uncompressed, with all layers."""

ENVIRONMENT_BYTES = 4_096
"""All variables of a function, names and values."""

FUNCTION_PAYLOAD_BYTES = 6 * 2**20
"""The event and the reply of a function."""

FUNCTION_NAME_LENGTH = 64
"""https://docs.aws.amazon.com/lambda/latest/api/API_CreateFunction.html"""

FUNCTIONS_AT_ONCE = 1_000
"""Invocations of an account at one time, by default."""

NEW_ACCOUNT_FUNCTIONS = 10
"""Invocations at one time in a new account, until AWS raises it by use or on request.
https://docs.aws.amazon.com/lambda/latest/dg/lambda-concurrency.html"""

# --- Step Functions: https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html ---

STATE_BYTES = 262_144
"""The input and the output of a state, of an execution, and of a batch."""

DEFINITION_BYTES = 1_048_576
"""The definition of a state machine."""

VARIABLES_BYTES = 10 * 2**20
"""All variables of an execution. https://docs.aws.amazon.com/step-functions/latest/dg/workflow-variables.html"""

HISTORY_EVENTS = 25_000
"""The history of a STANDARD execution."""

OPEN_MAP_RUNS = 1_000
"""Map runs of an account that are in progress at one time."""

EXPRESS_SECONDS = 300
"""The longest EXPRESS execution.
https://docs.aws.amazon.com/step-functions/latest/dg/choosing-workflow-type.html"""

CHILDREN_AT_ONCE = 10_000
"""Child executions of a distributed map at one time.
https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html"""

STANDARD_STARTS = 100
EXPRESS_STARTS = 1_000
"""Child executions that a map starts in a second: what lokki assumes, as no page says it."""

MACHINE_NAME_LENGTH = 80
"""https://docs.aws.amazon.com/step-functions/latest/apireference/API_CreateStateMachine.html"""

STATE_NAME_LENGTH = 80
LONGEST_TIMEOUT = 99_999_999
"""Seconds. https://docs.aws.amazon.com/step-functions/latest/dg/statemachine-structure.html"""

EXECUTION_NAME_LENGTH = 80
"""https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html"""

LABEL_LENGTH = 40
"""The label of a map. https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html"""

LONGEST_RETRY_DELAY = 31_622_399
"""Seconds: MaxDelaySeconds must be below 31,622,400.
https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html"""

# --- CloudFormation: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html ---

TEMPLATE_BYTES = 1_048_576
TEMPLATE_BODY_BYTES = 51_200
"""A template that a request holds itself; a larger one is read from S3."""

STACK_RESOURCES = 500
STACK_NAME_LENGTH = 128
"""https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_CreateStack.html"""

# --- IAM: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html ---

INLINE_POLICY_CHARACTERS = 10_240
"""All inline policies of a role together, white space not counted."""

MANAGED_POLICY_CHARACTERS = 6_144
"""One managed policy, white space not counted."""

MANAGED_POLICIES = 10
"""Managed policies of one role, until AWS raises it on request."""

# --- S3: https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html ---

PUTS_PER_PREFIX = 3_500
"""PUT requests below one prefix of a bucket in a second."""

KEYS_PER_DELETE = 1_000
"""Objects that one request deletes. https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html"""

# --- CloudWatch Logs ---

RETENTION_DAYS = (
    (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653)
)  # fmt: skip
"""For how many days a log group may keep its events.
https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutRetentionPolicy.html"""

REDRIVE_DAYS = 14
"""How many days after its end a run can be redriven.
https://docs.aws.amazon.com/step-functions/latest/dg/redrive-executions.html"""

MOST_RESULT_DAYS = 3_650
"""The longest time that results may be set to stay, which is lokki's own limit."""
