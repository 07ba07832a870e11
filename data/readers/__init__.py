"""From files to pixels: X-rays and CTs of every format, on one geometry."""
