"""Whether this machine is ready: `python -m helpers.preflight`, a line for each thing.

`environment` looks at Python and its packages, `kernel` starts one as JupyterLab would.

Without it: a notebook fails in its third cell, for what the machine lacks.
"""
