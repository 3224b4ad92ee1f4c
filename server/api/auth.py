"""Who may do what: bearer tokens with roles. Only digests of tokens are kept.

A file of tokens is TOML, a table a token: `[alice]`, `role = "runner"`, `sha256 = "..."`.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import Field

from ...core.errors import SpecError
from ...core.options import Options, validate
from .problems import ProblemError

Role = Literal["viewer", "runner", "admin"]
RANK: dict[str, int] = {"viewer": 0, "runner": 1, "admin": 2}
"""A role may do all that lower ones may."""


class Token(Options):
    """One token, as its file has it."""

    role: Role
    """viewer: look; runner: launch, and end one's own; admin: everything."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Digest of the token."""


@dataclass(frozen=True)
class Caller:
    """Who asks."""

    name: str
    role: Role


LOCAL = Caller("local", "admin")
"""Everybody, where no tokens are asked for: on this computer only."""


def new_token(name: str, role: Role) -> tuple[str, str]:
    """Make a token; return it, and the lines for the file of tokens."""
    token = f"fedcosim_{secrets.token_urlsafe(32)}"
    return token, f'[{name}]\nrole = "{role}"\nsha256 = "{_digest(token)}"\n'


def read_tokens(path: Path) -> dict[str, Token]:
    """Read a file of tokens.

    Raises
    ------
    SpecError
        If it cannot be read, or is not one.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"--tokens {path}: cannot be read ({error}); make it with `fedcosim token`") from None
    tokens = {name: validate(Token, table if isinstance(table, dict) else {}, name) for name, table in tables.items()}
    if not tokens:
        raise SpecError(f"--tokens {path}: holds no token; add one with `fedcosim token`")
    return tokens


_bearer = HTTPBearer(auto_error=False)


def caller(request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> Caller:
    """Return who asks, by the token of the request."""
    tokens: dict[str, Token] | None = request.app.state.tokens
    if tokens is None:
        return LOCAL
    digest = _digest(credentials.credentials) if credentials else ""
    found = [Caller(name, token.role) for name, token in tokens.items() if hmac.compare_digest(token.sha256, digest)]
    if not found:
        detail = "a bearer token is needed" if not credentials else "this token is not known"
        raise ProblemError(401, detail, **{"WWW-Authenticate": "Bearer"})
    return found[0]


class Needs:
    """A dependency: the caller, who must have a role or a higher one."""

    def __init__(self, role: Role) -> None:
        self.role = role

    def __call__(self, who: Annotated[Caller, Depends(caller)]) -> Caller:
        """Return the caller, or end the request."""
        if RANK[who.role] < RANK[self.role]:
            raise ProblemError(403, f"role {who.role!r} may not do this; it takes {self.role!r}")
        return who


Viewer = Annotated[Caller, Depends(Needs("viewer"))]
Runner = Annotated[Caller, Depends(Needs("runner"))]
Admin = Annotated[Caller, Depends(Needs("admin"))]


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
