"""Reports and exports of what was recorded."""
