"""How property tests choose their inputs: a fixed sample by default, so that a run can be repeated; more when asked.

    python -m pytest --hypothesis-profile=long --timeout=0 tests/security/test_handler_fuzz.py
"""

from hypothesis import HealthCheck, settings

# No deadline: machines that run tests are busy, and a slow moment is no defect.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile(
    "long", max_examples=100_000, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("fixed")
