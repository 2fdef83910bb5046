"""A finished run as one Python object: what a notebook, another program and the scripts use."""
