"""Running a built flow on this machine as AWS would: state machine, functions and S3. Needs the extra ``emulator``."""
