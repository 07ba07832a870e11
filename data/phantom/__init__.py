"""The embedded phantom: a synthetic thorax with known findings."""
