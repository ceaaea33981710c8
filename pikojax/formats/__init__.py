"""Models in and out of files: run folders (`run.py`) and the checkpoints inside them (`checkpoints.py`)."""
