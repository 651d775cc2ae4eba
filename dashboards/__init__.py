"""The dashboard, its alert rules and its runbook; what is shown is data in `screens.py`."""
