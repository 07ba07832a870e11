"""How fast it is: the step, the input, saving, compiling and building, each beside what one would use otherwise."""
