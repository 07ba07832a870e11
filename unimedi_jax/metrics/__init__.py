"""Metrics: pure functions on host arrays, numpy in, numbers out.

Rules that hold in every module:
* nothing to measure (no cases, one class only) gives NaN, never 0 and never an error;
* a NaN label is unknown and skipped for that label only;
* arrays that are not finite or do not fit together raise ValueError: that is a bug of the caller;
* intervals are seeded 95 % percentile bootstraps over the `patients` of the rows, with all rows of each; without
  `patients` every row is one; `resamples=0` leaves intervals out.
"""
