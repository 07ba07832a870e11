"""Jobs that use a trained model: one file a task, each from records and a checkpoint to a table."""
