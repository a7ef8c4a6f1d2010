"""What /openapi.json says is what the server does: schemathesis makes requests of it, good and bad ones."""

import os

import pytest

URL = os.environ.get("SERVER_URL", "")
if not URL:
    pytest.skip("SERVER_URL names no server; scripts/conformance starts one", allow_module_level=True)
schemathesis = pytest.importorskip("schemathesis")
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

schema = schemathesis.openapi.from_url(f"{URL}/openapi.json")


@schema.parametrize()
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_the_description_has(case: "schemathesis.Case") -> None:
    answer = case.call()
    if answer.status_code != 504:  # rightly given to a request that has a millionth of a second
        # Rules between fields, as that `stride` goes with `window`, are not in the schema.
        case.validate_response(answer, excluded_checks=[positive_data_acceptance])
