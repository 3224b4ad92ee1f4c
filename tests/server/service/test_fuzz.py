"""Requests that break the OpenAPI description in every way get an answer, never an internal error."""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from small import small

from fedcosim.server.api import Service, create_app
from fedcosim.server.jobs import Jobs
from fedcosim.server.store import Experiment, Store

EACH = 100


def test_a_thousand_bad_requests_cause_no_internal_error(tmp_path):
    """Made by schemathesis; every second one is about an experiment that exists, so that more than its id is looked at.

    The route that says whether Ray is there is left out, for it is not.
    """
    store = Store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    app = create_app(Service(store, Jobs(store, tmp_path, "http://127.0.0.1:9")))
    known = store.submit(Experiment(id="known", name="known", owner="local", spec=small().to_dict()))[0].id
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    statuses: list[int] = []

    for result in schema.exclude(path="/readyz").get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
        @settings(max_examples=EACH, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
        def ask(case):
            if "experiment_id" in case.path_parameters and len(statuses) % 2:
                case.path_parameters["experiment_id"] = known
            store.move(known, ("queued",), "cancelled")  # streams of what has ended end
            response = case.call()
            statuses.append(response.status_code)
            assert response.status_code < 500, (case.method, case.path, response.text)

        try:
            ask()
        except Unsatisfiable:  # nothing about this operation can be wrong
            assert not operation.path_parameters
    assert sum(400 <= status < 500 for status in statuses) >= 1000
    store.close()
