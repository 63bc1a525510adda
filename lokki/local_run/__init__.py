"""Running a plan on this machine: run folders, checkpoints of map blocks, and the workers that run items."""
