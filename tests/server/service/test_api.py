"""The API's contract, without any experiment running: who may do what, what is refused and how, pages, problems, limits.

Ray is away here on purpose: everything that is accepted must stay queued, nothing must be lost or fail.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from small import SMALL, small

from fedcosim.server.api import Service, create_app
from fedcosim.server.api.auth import new_token, read_tokens
from fedcosim.server.jobs import Jobs
from fedcosim.server.store import Store

NOWHERE = "http://127.0.0.1:9"
ROLES = ("nobody", "viewer", "runner", "other", "admin")


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A file of tokens, and the tokens."""
    path = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    made = {}
    with path.open("w") as file:
        for name, role in (("viewer", "viewer"), ("runner", "runner"), ("other", "runner"), ("admin", "admin")):
            made[name], lines = new_token(name, role)
            file.write(lines)
    return path, made


@pytest.fixture
def service(tmp_path, keys):
    store = Store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    return Service(store, Jobs(store, tmp_path, NOWHERE), read_tokens(keys[0]))


@pytest.fixture
def api(service, keys):
    """Ask as somebody: `api("runner", "GET", "/v1/experiments")`."""
    with TestClient(create_app(service), raise_server_exceptions=False) as client:

        def ask(who: str, method: str, path: str, **parts):
            token = {"Authorization": f"Bearer {keys[1][who]}"} if who in keys[1] else {}
            return client.request(method, path, headers={**token, **parts.pop("headers", {})}, **parts)

        yield ask


@pytest.fixture
def submitted(api) -> str:
    response = api("runner", "POST", "/v1/experiments", json=small().to_dict())
    assert response.status_code == 202
    return response.json()["id"]


# ------------------------------------------------------------------------------------------------------ authorisation

LOOK, LAUNCH, OWN, RULE = {"viewer", "runner", "other", "admin"}, {"runner", "other", "admin"}, {"runner", "admin"}, {"admin"}
ROUTES = [
    ("GET", "/v1/experiments", LOOK),
    ("GET", "/v1/experiments/{id}", LOOK),
    ("GET", "/v1/experiments/{id}/rounds", LOOK),
    ("GET", "/v1/experiments/{id}/clients", LOOK),
    ("GET", "/v1/experiments/{id}/artifacts", LOOK),
    ("GET", "/v1/experiments/{id}/artifacts/{name}", LOOK),
    ("GET", "/v1/experiments/{id}/logs", LOOK),
    ("GET", "/v1/experiments/{id}/events", LOOK),
    ("GET", "/v1/experiments/{id}/logs/stream", LOOK),
    ("GET", "/v1/catalogue/{kind}", LOOK),
    ("GET", "/v1/schema", LOOK),
    ("GET", "/v1/compare", LOOK),
    ("POST", "/v1/experiments", LAUNCH),
    ("POST", "/v1/experiments/{id}/clone", LAUNCH),
    ("POST", "/v1/sweeps", LAUNCH),
    ("POST", "/v1/hwsim/{simulator}", LAUNCH),
    ("POST", "/v1/experiments/{id}/stop", OWN),
    ("POST", "/v1/experiments/{id}/resume", OWN),
    ("GET", "/v1/audit", RULE),
]


def test_every_route_is_in_the_matrix(service):
    paths = create_app(service).openapi()["paths"]
    known = {(method.upper(), path.replace("experiment_id", "id")) for path, methods in paths.items() for method in methods}
    assert {route for route in known if route[1].startswith("/v1")} == {(method, path) for method, path, _ in ROUTES}


@pytest.mark.parametrize("who", ROLES)
@pytest.mark.parametrize(("method", "path", "allowed"), ROUTES, ids=[f"{method} {path}" for method, path, _ in ROUTES])
def test_who_may_do_what(method, path, allowed, who, api, submitted, service):
    """Whoever may is not told 401 or 403, whatever else is wrong; nobody without a token sees anything."""
    service.store.move(submitted, ("queued",), "cancelled")  # so that streams end
    parts = {"json": {}} if method == "POST" else {}
    response = api(who, method, path.format(id=submitted, name="spec.toml", kind="models", simulator="roofline"), **parts)
    if who == "nobody":
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
    else:
        assert (response.status_code == 403) == (who not in allowed)
        assert response.status_code != 401


def test_operators_need_no_token_and_learn_nothing_of_experiments(api, submitted):
    assert api("nobody", "GET", "/healthz").status_code == 200
    assert api("nobody", "GET", "/readyz").status_code == 503  # Ray is away
    metrics = api("nobody", "GET", "/metrics").text
    assert 'fedcosim_experiments{status="queued"} 1.0' in metrics
    assert submitted not in metrics


def test_tokens_are_in_no_log_and_not_in_the_file(api, keys, caplog):
    caplog.set_level(logging.DEBUG)
    api("runner", "POST", "/v1/experiments", json=small().to_dict())
    api("admin", "GET", "/v1/audit")
    for token in keys[1].values():
        assert token not in caplog.text
        assert token not in keys[0].read_text()


def test_what_was_done_is_in_the_audit_log(api, submitted):
    api("admin", "POST", f"/v1/experiments/{submitted}/stop")
    entries = api("admin", "GET", "/v1/audit").json()
    assert [(e["who"], e["role"], e["action"], e["what"]) for e in entries] == [
        ("admin", "admin", "stop", submitted),
        ("runner", "runner", "submit", submitted),
    ]


# ------------------------------------------------------------------------------------------------------- experiments


def test_what_is_accepted_stays_queued_while_ray_is_away(api, submitted, service):
    service.jobs.close()
    row = api("viewer", "GET", f"/v1/experiments/{submitted}").json()
    assert (row["status"], row["rounds"], row["rounds_wanted"], row["owner"]) == ("queued", 0, 3, "runner")
    assert row["spec"]["engine"]["address"] == "auto"


@pytest.mark.parametrize("kind", ["application/json", "application/toml"])
def test_a_spec_comes_as_json_or_toml(kind, api):
    body = json.dumps(SMALL) if "json" in kind else small().to_toml()
    response = api("runner", "POST", "/v1/experiments", content=body, headers={"content-type": kind})
    assert response.status_code == 202
    assert api("viewer", "GET", response.headers["location"]).json()["spec"]["model"]["dim"] == 16


def test_the_same_key_and_body_are_one_experiment(api):
    first, again = (api("runner", "POST", "/v1/experiments", json=SMALL, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert first.json()["id"] == again.json()["id"]
    other = api("runner", "POST", "/v1/experiments", json={**SMALL, "seed": 9}, headers={"Idempotency-Key": "k"})
    assert (other.status_code, other.headers["content-type"]) == (409, "application/problem+json")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"strategy": {"name": "fedsgd"}}, "strategy.name = 'fedsgd'"),
        ({"surprise": 1}, "surprise: unknown field"),
        ({"data": {"source": "mnist", "path": "/etc"}}, "data.path = '/etc'"),
        ({"hardware": {"devices": {"raspberry-pi-5": 1}, "trace": "/etc/passwd"}}, "hardware.trace"),
        ({"hardware": {"devices": {"raspberry-pi-5": 1}, "endpoint": "evil:1"}}, "hardware.endpoint"),
        ({"tracking": {"mlflow": "file:///etc"}}, "tracking.mlflow"),
        ({"data": {"source": "circuits", "circuits": {"liberty": "/etc/passwd"}}}, "data.circuits.liberty"),
        ({"data": {"source": "hub", "dataset": "/etc"}}, "data.dataset = '/etc'"),
        ({"data": {"source": "hub", "dataset": "../runs"}}, "data.dataset = '../runs'"),
        ({"engine": {"state": "s3://evil/states"}}, "engine.state = 's3://evil/states': names another host"),
        ({"federation": 3}, "federation"),
        ({"engine": 3}, "engine"),
    ],
)
def test_bad_specs_are_refused_field_by_field(change, field, api):
    response = api("runner", "POST", "/v1/experiments", json={**SMALL, **change})
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert any(sentence.startswith(field) for sentence in response.json()["errors"]), response.json()


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"null", b"3"])
@pytest.mark.parametrize("kind", ["application/json", "application/toml"])
def test_bodies_that_are_no_spec_are_refused(body, kind, api):
    assert api("runner", "POST", "/v1/experiments", content=body, headers={"content-type": kind}).status_code == 422


@pytest.mark.parametrize("declared", [True, False])
def test_bodies_that_are_too_large_are_refused_unread(declared, api):
    body = b" " * (2**20 + 1)
    content = body if declared else (body[i : i + 65536] for i in range(0, len(body), 65536))
    assert api("runner", "POST", "/v1/experiments", content=content).status_code == 413


def test_a_sweep_queues_every_combination_or_none(api):
    over = {"seed": [1, 2, 3], "strategy.name": ["fedavg", "fedper"]}
    made = api("runner", "POST", "/v1/sweeps", json={"spec": SMALL, "over": over}).json()
    specs = [api("viewer", "GET", f"/v1/experiments/{row['id']}").json()["spec"] for row in made["experiments"]]
    assert {(spec["seed"], spec["strategy"]["name"]) for spec in specs} == {
        (s, n) for s in (1, 2, 3) for n in ("fedavg", "fedper")
    }
    bad = api("runner", "POST", "/v1/sweeps", json={"spec": SMALL, "over": {"seed": [4, -1]}})
    assert (bad.status_code, bad.json()["errors"][0].split(" = ")[0]) == (422, "seed")
    found = api("viewer", "GET", f"/v1/experiments?sweep={made['sweep']}").json()["experiments"]
    assert len(found) == len(api("viewer", "GET", "/v1/experiments").json()["experiments"]) == 6


def test_a_sweep_has_as_many_experiments_as_it_may(api):
    """All in the same second: their ids must not depend on luck."""
    made = api("runner", "POST", "/v1/sweeps", json={"spec": SMALL, "over": {"seed": list(range(200))}}).json()
    assert len({row["id"] for row in made["experiments"]}) == 200
    more = api("runner", "POST", "/v1/sweeps", json={"spec": SMALL, "over": {"seed": list(range(201))}})
    assert more.status_code == 422


def test_a_clone_is_the_same_with_changes(api, submitted):
    response = api("other", "POST", f"/v1/experiments/{submitted}/clone", json={"set": ["seed=8"]})
    clone = response.json()
    original = api("viewer", "GET", f"/v1/experiments/{submitted}").json()
    assert (clone["parent"], clone["owner"], clone["spec"]) == (submitted, "other", {**original["spec"], "seed": 8})


def test_pages_go_on_where_they_ended(api):
    for seed in range(5):
        api("runner", "POST", "/v1/experiments", json={**SMALL, "seed": seed})
    first = api("viewer", "GET", "/v1/experiments?limit=3").json()
    second = api("viewer", "GET", f"/v1/experiments?limit=3&cursor={first['cursor']}").json()
    ids = [row["id"] for row in first["experiments"] + second["experiments"]]
    assert (len(ids), len(set(ids)), second["cursor"]) == (5, 5, None)


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "status=gone", "cursor=x"])
def test_bad_queries_are_refused(query, api):
    assert api("viewer", "GET", f"/v1/experiments?{query}").status_code == 422


def test_what_is_not_there_is_not_found(api):
    for path in ("/v1/experiments/none", "/v1/experiments/none/events", "/v1/nothing", "/v1/compare?id=none"):
        response = api("viewer", "GET", path)
        assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize("name", ["../../store.sqlite", "..%2F..%2Fstore.sqlite", "/etc/passwd", "%2Fetc%2Fpasswd", "state/x"])
def test_only_artifacts_can_be_fetched(name, api, submitted, service):
    (service.jobs.runs / submitted / "state").mkdir(parents=True)
    (service.jobs.runs / submitted / "state" / "x").write_text("secret")
    response = api("viewer", "GET", f"/v1/experiments/{submitted}/artifacts/{name}")
    assert response.status_code in (404, 307)
    assert "secret" not in response.text


def test_a_link_out_of_the_run_is_no_artifact(api, submitted, service, tmp_path):
    folder = service.jobs.runs / submitted
    folder.mkdir(parents=True)
    (tmp_path / "outside").write_text("secret")
    (folder / "log.txt").symlink_to(tmp_path / "outside")
    (folder / "spec.toml").write_text("inside")
    assert [one["name"] for one in api("viewer", "GET", f"/v1/experiments/{submitted}/artifacts").json()] == ["spec.toml"]


def test_a_stop_of_what_is_queued_cancels_it_and_a_resume_queues_it_again(api, submitted):
    assert api("runner", "POST", f"/v1/experiments/{submitted}/stop").json()["status"] == "cancelled"
    assert api("runner", "POST", f"/v1/experiments/{submitted}/stop").status_code == 409
    odd = api("runner", "POST", f"/v1/experiments/{submitted}/resume", json={"set": ["seed=4"]})
    assert (odd.status_code, odd.json()["detail"]) == (409, f"{submitted}: seed cannot change in a resume; start a new run")
    for moved in ("engine.address=ray://evil:1", "tracking.mlflow=http://evil"):
        odd = api("runner", "POST", f"/v1/experiments/{submitted}/resume", json={"set": [moved]})
        assert (odd.status_code, odd.json()["errors"][0].split(" = ")[0]) == (422, moved.split("=")[0])
    odd = api("runner", "POST", f"/v1/experiments/{submitted}/resume", json={"set": ["engine.state=s3://evil"]})
    assert (odd.status_code, "engine.state cannot change" in odd.json()["detail"]) == (409, True)
    assert api("runner", "POST", f"/v1/experiments/{submitted}/resume", json={}).json()["status"] == "queued"
    assert api("runner", "POST", f"/v1/experiments/{submitted}/resume", json={}).status_code == 409


def test_changes_of_a_resume_that_was_stopped_in_the_queue_are_not_forgotten(api, submitted, service):
    """The driver applies what is in `overrides` to the run's own spec: all of it must be there, not the last alone."""
    for changes in (["federation.rounds=9"], ["stop.patience=4"], []):
        api("runner", "POST", f"/v1/experiments/{submitted}/stop")
        assert api("runner", "POST", f"/v1/experiments/{submitted}/resume", json={"set": changes}).status_code == 202
    row = service.store.get(submitted)
    assert row.overrides == ["federation.rounds=9", "stop.patience=4"]
    assert (row.spec["federation"]["rounds"], row.spec["stop"]["patience"]) == (9, 4)


# --------------------------------------------------------------------------------------------------- catalogue, hwsim


def test_the_catalogue_has_what_the_command_line_lists(api):
    for kind in ("strategies", "models", "data", "codecs", "devices"):
        entries = api("viewer", "GET", f"/v1/catalogue/{kind}").json()
        assert all({"name", "summary", "options"} <= entry.keys() for entry in entries)
        assert len(entries) > 2
    assert api("viewer", "GET", "/v1/catalogue/secrets").status_code == 422


def test_hardware_can_be_asked(api):
    request = {"device": "raspberry-pi-5", "model": {"name": "lenet", "batch": 8}}
    assert api("runner", "POST", "/v1/hwsim/roofline", json=request).json()["time_s"] > 0
    assert api("runner", "POST", "/v1/hwsim/roofline", json={**request, "device": "abacus"}).status_code == 404
    assert api("runner", "POST", "/v1/hwsim/roofline", json={"batch": -1}).status_code == 422
    crossbars = {"model": "lenet", "data": "digits", "preparation": {"trained_on": 100}, "workload": {"samples": 8}}
    assert api("runner", "POST", "/v1/hwsim/reram", json=crossbars).json()["mode"] == "functional"


def test_the_description_is_openapi_with_examples(api):
    document = api("nobody", "GET", "/openapi.json").json()
    assert document["openapi"].startswith("3.")
    body = document["paths"]["/v1/experiments"]["post"]["requestBody"]["content"]
    assert body["application/json"]["example"]["strategy"] == {"name": "fedavg"}
