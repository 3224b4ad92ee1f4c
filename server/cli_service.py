"""`fedcosim serve`, and the commands that talk to a service: `submit`, `ls`, `show`, `logs`, `stop`."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..core.errors import FedcosimError, SpecError

if TYPE_CHECKING:
    from .client import Client

SERVER, TOKEN = "FEDCOSIM_SERVER", "FEDCOSIM_TOKEN"
ServerUrl = Annotated[str, typer.Option("--server", envvar=SERVER, help="Address of the service.")]
DEFAULT_SERVER = "http://127.0.0.1:8000"
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")]
Id = Annotated[str, typer.Argument(help="The experiment's id.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (serve, token, submit, ls, show, logs, stop):
        app.command()(command)


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    folder: Annotated[Path, typer.Option(help="Where runs and the database go.")] = Path("fedcosim-service"),
    database: Annotated[str | None, typer.Option(help="postgresql+psycopg://...; SQLite in the folder when absent.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="http://host:8265 of a cluster; started here when absent.")] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs of the Ray that is started here; all when absent.")] = None,
    most: Annotated[int, typer.Option(min=1, help="Experiments that run at once.")] = 1,
    tokens: Annotated[Path | None, typer.Option(help="File of tokens; needed on other addresses than loopback.")] = None,
) -> None:
    """Serve the REST API until interrupted; experiments run as Ray Jobs, one after another.

    The Ray that was started here ends with it; experiments that run then can be resumed.
    """
    import uvicorn

    from .api import Service, create_app
    from .api.auth import read_tokens
    from .cli import stderr
    from .jobs import Head, Jobs
    from .run import sigterm_interrupts
    from .store import Store

    known = read_tokens(tokens) if tokens else None
    if known is None and not _is_loopback(host):
        raise SpecError(f"--host {host}: others could launch experiments; give --tokens, or listen on 127.0.0.1")
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(database or f"sqlite:///{folder / 'store.sqlite'}")
    head = None if ray_address else Head(folder, cpus)
    jobs = Jobs(store, folder, ray_address or (head.address if head else ""), most)
    listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, reuse_port=False)
    stderr.print(
        f"serving http://{host}:{listener.getsockname()[1]}, runs in {folder / 'runs'}", highlight=False, soft_wrap=True
    )
    config = uvicorn.Config(create_app(Service(store, jobs, known)), log_level="warning", timeout_graceful_shutdown=5)
    try:
        with suppress(KeyboardInterrupt), sigterm_interrupts():  # uvicorn raises the signal that ended it once more
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        if head is not None:
            head.close()


def token(
    name: Annotated[str, typer.Argument(help="Whose it is.")],
    role: Annotated[str, typer.Option(help="viewer, runner or admin.")] = "runner",
    tokens: Annotated[Path, typer.Option(help="File that its digest is added to.")] = Path("tokens.toml"),
) -> None:
    """Make a token, print it, and add its digest to a file for `fedcosim serve --tokens`."""
    from .api.auth import RANK, new_token, read_tokens
    from .cli import stdout

    if role not in RANK:
        raise SpecError(f"--role {role!r}: choose one of {', '.join(RANK)}")
    if not name.replace("-", "").replace("_", "").isalnum():
        raise SpecError(f"{name!r}: a name has letters, digits, - and _ only")
    if tokens.exists() and name in read_tokens(tokens):
        raise SpecError(f"{name!r}: has a token in {tokens}; take it out there first")
    made, lines = new_token(name, role)  # type: ignore[arg-type]
    descriptor = os.open(tokens, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8") as file:
        file.write(lines)
    stdout.print(made, soft_wrap=True, highlight=False)


def submit(
    spec: Annotated[Path, typer.Argument(help="The experiment, a TOML file.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a field; repeatable.")] = None,
    server: ServerUrl = DEFAULT_SERVER,
    key: Annotated[str | None, typer.Option(help="Idempotency-Key: the same one submits once only.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Print rounds as they come, until it has ended.")] = False,
    as_json: Json = False,
) -> None:
    """Queue an experiment at a service, and print its id."""
    from .cli import print_json, stdout
    from .spec import load

    made = _client(server).submit(load(spec, overrides or ()).to_toml(), key)
    if as_json:
        print_json(made)
    else:
        stdout.print(made["id"], soft_wrap=True, highlight=False)
    if follow:
        _follow(server, made["id"])


def ls(
    status: Annotated[list[str] | None, typer.Option(help="queued, running, finished, ...; repeatable.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many, at most.")] = 20,
    server: ServerUrl = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """List a service's experiments, newest first."""
    from .cli import print_json, stdout

    found = _client(server).experiments(status or (), limit=limit)
    if as_json:
        print_json(found)
        return
    table = Table("id", "owner", "status", "rounds", "accuracy", "created")
    for row in found:
        accuracy = "" if row["accuracy"] is None else f"{row['accuracy']:.3f}"
        rounds = f"{row['rounds']}/{row['rounds_wanted']}"
        table.add_row(row["id"], row["owner"], row["status"], rounds, accuracy, row["created"][:19])
    stdout.print(table)


def show(experiment: Id, server: ServerUrl = DEFAULT_SERVER, as_json: Json = False) -> None:
    """Show one experiment."""
    from .cli import figures, print_json, stdout

    found = _client(server).get(experiment)
    if as_json:
        print_json(found)
        return
    stdout.print(
        figures(f"{found['id']}: {found['status']}" + (f" ({found['reason']})" if found["reason"] else ""), found["final"])
    )


def logs(
    experiment: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the experiment has ended.")] = False,
    server: ServerUrl = DEFAULT_SERVER,
) -> None:
    """Print what an experiment's job prints."""
    client = _client(server)
    if not follow:
        typer.echo(client.logs(experiment), nl=False)
        return
    for _, line in client.follow(experiment, "logs/stream"):
        typer.echo(line)


def stop(experiment: Id, server: ServerUrl = DEFAULT_SERVER) -> None:
    """End an experiment; it can be resumed later."""
    from .cli import stdout

    stdout.print(f"{experiment}: asked to stop (was {_client(server).stop(experiment)['status']})", highlight=False)


def resume_there(experiment: str, overrides: list[str], server: str) -> Mapping[str, Any]:
    """Go on with an experiment at a service."""
    return _client(server).resume(experiment, overrides)


def _follow(server: str, experiment: str) -> None:
    from .cli import stderr

    for kind, data in _client(server).follow(experiment):
        accuracy = data.get("accuracy_mean")
        line = f"round {data['round']}" if kind == "round" else kind
        stderr.print(line + (f"  accuracy {100 * accuracy:.1f} %" if accuracy is not None else ""), highlight=False)
    ended = _client(server).get(experiment)
    if ended["status"] not in ("finished", "stopped"):
        raise FedcosimError(f"{experiment}: {ended['status']}: {ended['reason']}")


def _client(server: str) -> Client:
    from .client import Client

    return Client(server, os.environ.get(TOKEN))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


__all__ = ["add_to", "resume_there"]
