"""Clients: the same answers wherever the simulator is, patience with servers, and each question asked once."""

from __future__ import annotations

import multiprocessing
import socket
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from asking import ask

from fedcosim.core.errors import SpecError
from fedcosim.hwsim.client import CachedClient, LocalClient, RemoteClient, RoutedClient, connect
from fedcosim.hwsim.roofline.simulator import RooflineRequest
from fedcosim.hwsim.roofline.workload import Operator, Workload
from fedcosim.hwsim.service import Host, Limits
from fedcosim.hwsim.simulator import HwsimError

PATIENCE_S = 20
WORK = Workload(operators=(Operator(name="a", flops=7, load_act_bytes=3),))
SMALL = RooflineRequest(device="xeon-8480", workload=WORK)


def requests_of(server: Host) -> dict[str, int]:
    """How many requests a server has ended, by status."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=PATIENCE_S) as page:
        lines = page.read().decode().splitlines()
    counted = [line for line in lines if line.startswith("fedcosim_hwsim_requests_total")]
    return {line.split('code="')[1].split('"')[0]: int(float(line.rpartition(" ")[2])) for line in counted}


def test_errors_are_the_same_here_and_there(host):
    remote = RemoteClient(f"127.0.0.1:{host().port}")
    for fields in ({"device": "nowhere"}, {"device": "llmviewer:intel_13900k"}):
        request = RooflineRequest(workload=WORK, **fields)
        raised = []
        for client in (LocalClient(), remote):
            with pytest.raises(HwsimError) as error:
                client.estimate("roofline", request)
            raised.append((str(error.value), error.value.code, error.value.field, error.value.exit_code))
        assert raised[0] == raised[1]
    remote.close()


def test_an_unknown_simulator_is_not_found():
    for client in (LocalClient(), RemoteClient("127.0.0.1:1")):
        with pytest.raises(HwsimError, match="did you mean 'roofline'") as raised:
            client.estimate("rofline", SMALL)
        assert raised.value.code == "NOT_FOUND"


def test_a_server_that_comes_back_is_found_again(host):
    """Another program has the port at first, and hangs up on the client; then the server is there."""
    with socket.create_server(("127.0.0.1", 0)) as other, ThreadPoolExecutor(1) as threads:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        client = RemoteClient(address, patience_s=PATIENCE_S)
        answer = threads.submit(client.estimate, "roofline", SMALL)
        other.settimeout(PATIENCE_S)
        other.accept()[0].close()
        other.close()
        host(address=address)
        assert answer.result(PATIENCE_S) == LocalClient().estimate("roofline", SMALL)
    client.close()


def test_a_client_outlives_its_server(host):
    first = host()
    address = f"127.0.0.1:{first.port}"
    client = RemoteClient(address, patience_s=PATIENCE_S)
    expected = client.estimate("roofline", SMALL)
    first.stop(0)
    host(address=address)
    assert client.estimate("roofline", SMALL) == expected
    client.close()


def test_a_server_that_stays_away_is_unavailable_after_some_patience():
    client = RemoteClient("127.0.0.1:1", patience_s=0.3)
    for _ in range(2):  # the second time it is tried once
        with pytest.raises(HwsimError) as raised:
            client.estimate("roofline", SMALL)
        assert (raised.value.code, raised.value.exit_code) == ("UNAVAILABLE", 1)
    client.close()


def test_a_busy_server_is_asked_again(host, lasting):
    server = host(lasting, Limits(concurrency=1), metrics_port=0)
    client = RemoteClient(f"127.0.0.1:{server.port}", patience_s=PATIENCE_S)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(client.estimate, "roofline", SMALL)
        assert lasting.begun.acquire(timeout=PATIENCE_S)
        second = threads.submit(client.estimate, "roofline", SMALL)
        while not requests_of(server).get("RESOURCE_EXHAUSTED"):
            assert not first.done()
        lasting.finish.set()
        assert first.result(PATIENCE_S) == second.result(PATIENCE_S)
    client.close()


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (RooflineRequest(device="nowhere", workload=WORK), "NOT_FOUND"),
        (
            RooflineRequest(device="xeon-8480", workload=WORK.model_copy(update={"uncounted": ("x" * 2**22,)})),
            "RESOURCE_EXHAUSTED",
        ),
    ],
)
def test_what_can_never_be_answered_is_asked_once(request_, code, host):
    """A message that is too large is RESOURCE_EXHAUSTED too, but no server says when to come again."""
    server = host(metrics_port=0)
    client = RemoteClient(f"127.0.0.1:{server.port}", patience_s=10**6)
    with pytest.raises(HwsimError) as raised:
        client.estimate("roofline", request_)
    assert raised.value.code == code
    assert sum(requests_of(server).values()) <= 1
    client.close()


class Counting(LocalClient):
    """Answers here, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def estimate(self, simulator, request):
        self.asked += 1
        return super().estimate(simulator, request)


def test_equal_requests_are_asked_once_and_others_anew():
    counting = Counting()
    cached = CachedClient(counting)
    equal = RooflineRequest.model_validate_json(SMALL.model_dump_json())
    other = RooflineRequest(device="raspberry-pi-5", workload=WORK)
    assert cached.estimate("roofline", SMALL) == cached.estimate("roofline", equal)
    assert counting.asked == 1
    assert cached.estimate("roofline", other).device == "raspberry-pi-5"
    assert counting.asked == 2


def test_a_refusal_is_not_remembered(tmp_path):
    counting = Counting()
    cached = CachedClient(counting, tmp_path)
    for _ in range(2):
        with pytest.raises(HwsimError):
            cached.estimate("roofline", RooflineRequest(device="nowhere", workload=WORK))
    assert counting.asked == 2


def test_processes_that_share_a_folder_ask_once_between_them(host, tmp_path):
    server = host(metrics_port=0)
    spawn = multiprocessing.get_context("spawn")
    start, queue = spawn.Barrier(3), spawn.Queue()
    arguments = (f"127.0.0.1:{server.port}", tmp_path / "shared", SMALL, start, queue, 3 * PATIENCE_S)
    processes = [spawn.Process(target=ask, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    times = [queue.get(timeout=3 * PATIENCE_S) for _ in processes]
    for process in processes:
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    assert times == [LocalClient().estimate("roofline", SMALL).time_s] * 3
    assert requests_of(server) == {"OK": 1}


def test_threads_that_share_a_client_ask_once_between_them():
    counting = Counting()
    cached, start = CachedClient(counting), threading.Barrier(4)

    def one() -> float:
        start.wait(PATIENCE_S)
        return cached.estimate("roofline", SMALL).time_s

    with ThreadPoolExecutor(4) as threads:
        assert len({future.result() for future in [threads.submit(one) for _ in range(4)]}) == 1
    assert counting.asked == 1


def test_connect_is_local_without_an_endpoint_and_names_a_bad_certificate(tmp_path):
    assert isinstance(connect(), LocalClient)
    assert isinstance(connect("127.0.0.1:1"), RemoteClient)
    with pytest.raises(SpecError, match=r"none\.pem: cannot be read"):
        connect("127.0.0.1:1", root_ca=tmp_path / "none.pem")


def test_each_simulator_can_have_an_endpoint_of_its_own(host):
    """One is asked where it is; one that is nowhere, or that there is not, is refused by name."""
    routed = connect(f"roofline=127.0.0.1:{host().port}, reram=127.0.0.1:1")
    assert isinstance(routed, RoutedClient)
    assert routed.estimate("roofline", SMALL) == LocalClient().estimate("roofline", SMALL)
    with pytest.raises(HwsimError, match="'neomem': no endpoint is given for it; choose one of roofline, reram"):
        routed.estimate("neomem", SMALL)
    with pytest.raises(SpecError, match="'rofline' is no simulator; did you mean 'roofline'"):
        connect("rofline=127.0.0.1:1")
    with pytest.raises(SpecError, match=r"'127\.0\.0\.1:2' is no simulator"):
        connect("roofline=127.0.0.1:1,127.0.0.1:2")
