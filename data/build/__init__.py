"""From a source to the records that training reads."""
