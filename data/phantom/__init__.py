"""The built-in phantom: a synthetic thorax with known findings."""
