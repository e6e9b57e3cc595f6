"""Environment variables by which the server's process gets what it is to serve; arguments could be seen by others."""

from typing import Final

STORE: Final = "CORGI_DASHBOARD_STORE"
"""Where the runs lie."""
TRACKING: Final = "CORGI_DASHBOARD_TRACKING"
"""Where they are recorded with MLflow; empty: nowhere."""
EXPERIMENT: Final = "CORGI_DASHBOARD_EXPERIMENT"
"""MLflow's id of the experiment that its page opens with."""
ARTIFACTS: Final = "CORGI_DASHBOARD_ARTIFACTS"
"""Where new runs of MLflow would put their files."""
TOKEN: Final = "CORGI_DASHBOARD_TOKEN"
"""The secret part of the address."""
HOSTS: Final = "CORGI_DASHBOARD_HOSTS"
"""The values of Host that are answered, apart by commas."""
