"""Training: the objective, the state, one step, one loop."""
