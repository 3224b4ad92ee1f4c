"""The Ray actors that a grid works with: started where there is room, missed while they are away, more as nodes join."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ray

from ..clients.worker import Worker
from ..core.errors import RunError, SpecError

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
START_TIMEOUT_S = 180


class Pool:
    """Workers by number. One that dies, or whose node does, is missed until Ray has started it anew, wherever there is room.

    Parameters
    ----------
    arguments : tuple
        What every `Worker` is made with.
    workers, resources, labels
        See `EngineOptions`.

    Raises
    ------
    SpecError
        If the cluster has no room for so many.
    RunError
        If they do not start.
    """

    def __init__(
        self,
        arguments: tuple[Any, ...],
        workers: int | None = None,
        resources: Mapping[str, float] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self._arguments, self._wanted = arguments, workers
        self._resources, self._labels = dict(resources or {}), dict(labels or {})
        self._workers: list[Any] = []
        self._missed: dict[ray.ObjectRef, int] = {}
        room = self._room()
        if not 1 <= (workers or room) <= room:
            raise SpecError(
                f"engine.workers = {workers or 'all'}: Ray has {room} CPUs here, a worker takes {self._needs()}; "
                f"{f'choose 1 to {room}' if room else 'add nodes'}"
            )
        self._add(workers or room)
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._missed:
            if time.monotonic() > deadline:
                self.close()
                raise RunError(
                    f"engine.workers = {workers or room}: not all could be started within {START_TIMEOUT_S} s; "
                    f"{ray.available_resources().get('CPU', 0):.0f} of Ray's {room} CPUs are free"
                )
            self.wait((), deadline - time.monotonic())

    def __len__(self) -> int:
        return len(self._workers)

    def __getitem__(self, worker: int) -> Any:
        return self._workers[worker]

    def present(self) -> list[int]:
        """Return the workers that are there, as far as is known."""
        return sorted(set(range(len(self._workers))) - set(self._missed.values()))

    def miss(self, worker: int) -> None:
        """Note that a worker has died, or cannot be reached; `wait` takes it back."""
        if worker not in self._missed.values():
            back = self._workers[worker].__ray_ready__.options(max_task_retries=-1).remote()
            self._missed[back] = worker

    def wait(self, calls: Sequence[ray.ObjectRef], timeout_s: float | None = None) -> list[ray.ObjectRef]:
        """Return which calls have ended, as soon as one has or a missed worker has come back (none, in that case)."""
        awaited = [*calls, *self._missed]
        ready = ray.wait(awaited, timeout=timeout_s)[0] if awaited else []
        for back in self._missed.keys() & set(ready):
            del self._missed[back]
            ray.get(back)  # raises what keeps it from ever coming back
        return [call for call in calls if call in ready]

    def grow(self) -> None:
        """Take the room that nodes which have joined offer, unless it was said how many workers there are to be."""
        if self._wanted is None:
            self._add(self._room() - len(self._workers))

    def restart(self, workers: Iterable[int]) -> None:
        """Kill worker processes; Ray starts them anew."""
        for worker in workers:
            ray.kill(self._workers[worker], no_restart=False)
            self.miss(worker)

    def close(self) -> None:
        """Stop all workers."""
        for worker in self._workers:
            ray.kill(worker)
        self._workers, self._missed = [], {}

    def _add(self, count: int) -> None:
        actor: Any = ray.remote(
            num_cpus=1,
            resources=self._resources,
            label_selector=self._labels,
            scheduling_strategy="SPREAD",
            max_restarts=-1,
            runtime_env={"env_vars": ONE_THREAD},
        )(Worker)
        for _ in range(count):
            self._workers.append(actor.remote(*self._arguments))
            self.miss(len(self._workers) - 1)

    def _room(self) -> int:
        """Return how many workers fit the cluster's nodes, whoever else uses them."""
        needs = {"CPU": 1.0, **self._resources}
        nodes = [node for node in ray.nodes() if node["Alive"] and self._labels.items() <= node["Labels"].items()]
        return sum(min(int(node["Resources"].get(name, 0) / amount + 1e-9) for name, amount in needs.items()) for node in nodes)

    def _needs(self) -> str:
        """Say what a worker takes."""
        resources = [f"{amount:g} {name}" for name, amount in self._resources.items()]
        labels = [f"a node with {name}={value}" for name, value in self._labels.items()]
        return " and ".join(["one", *resources, *labels])
