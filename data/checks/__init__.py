"""The doctor, which examines a source, and the audit, which searches for what must not be there."""
