"""A Flower grid that is not ours: no workers, nobody who averages or decodes on the way."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from fedcosim.clients.client_app import app as client_app
from fedcosim.core.records import private_copy
from fedcosim.server.rounds import RosterView
from fedcosim.server.spec import Experiment


class HereGrid(RosterView):
    """Clients in this process; node id = client id. Keeps what was sent to train, and answered."""

    def __init__(self, spec: Experiment, app: ClientApp = client_app) -> None:
        super().__init__(None, range(spec.federation.clients))
        self.spec, self.app, self.contexts = spec, app, {}
        self.sent: list[Message] = []
        self.answers: dict[int, RecordDict] = {}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for message in messages:
            client = message.metadata.dst_node_id
            node = {"partition-id": client, "num-partitions": self.spec.federation.clients}
            fresh = Context(1, client, node, RecordDict(), self.spec.to_run_config())
            context = self.contexts.setdefault(client, fresh)
            private = Message(private_copy(message.content), metadata=message.metadata)
            try:
                answer = self.app(private, context)
            except Exception:
                answer = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, traceback.format_exc()), reply_to=message)
            if answer.has_content():
                answer.content = private_copy(answer.content, arrays=True)
            if message.metadata.message_type == "train":
                self.sent.append(message)
                if answer.has_content():
                    self.answers[client] = private_copy(answer.content, arrays=True)
            yield answer
