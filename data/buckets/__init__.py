"""Buckets, gs:// and s3://, behind folders of this machine: what jobs read is fetched, what they write is sent back."""
