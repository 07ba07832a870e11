"""Settings of a run as frozen dataclasses, each with its default, its meaning and its checks; free of JAX."""
