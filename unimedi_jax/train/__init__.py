"""Training: the program, the state, one step, one loop."""
