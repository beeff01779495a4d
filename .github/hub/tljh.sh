#!/bin/sh
# For The Littlest JupyterHub, on its host and in a clone of this repository:
#     sudo sh .github/hub/tljh.sh
# One environment for everybody, and bounds that keep one learner's mistake to themselves.
set -eu
cd "$(dirname "$0")/../.."

/opt/tljh/user/bin/python -m pip install --requirement .binder/requirements.txt
tljh-config set user_environment.default_app jupyterlab
tljh-config set limits.memory 1G
tljh-config set limits.cpu 1
tljh-config reload
