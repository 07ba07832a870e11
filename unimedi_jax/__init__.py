"""UniMedI on JAX: chest X-rays, CT volumes and their reports in one space."""
