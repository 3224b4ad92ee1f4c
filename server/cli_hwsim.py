"""`fedcosim hwsim`: serve simulators, ask them, and measure this computer."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import SpecError
from ..core.options import validate
from ..hwsim.client import TOKEN, connect
from ..hwsim.simulator import Report

app = typer.Typer(no_args_is_help=True, help="Hardware simulators: serve them, ask them, measure this computer.")
estimate = typer.Typer(no_args_is_help=True, help="Ask a simulator what some work costs.")
app.add_typer(estimate, name="estimate")


def _drawable(chart: Path | None) -> Path | None:
    if chart is not None and chart.suffix not in (".svg", ".png", ".pdf"):
        raise SpecError(f"--chart {str(chart)!r}: must end in .svg, .png or .pdf")
    return chart


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")]
Endpoint = Annotated[
    str | None, typer.Option("--endpoint", help="host:port of a service; in this process when absent.", show_default=False)
]
Chart = Annotated[
    Path | None, typer.Option(help="Where a figure goes (.svg, .png, .pdf).", callback=_drawable, show_default=False)
]
RECORDED_STEPS = 20  # how often a recorded training step is run


@app.command()
def serve(
    names: Annotated[list[str] | None, typer.Argument(help="Simulators; all of them when absent.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 50051,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests worked on at once.")] = 2,
    deadline_s: Annotated[float, typer.Option(min=0.001, help="Most seconds a request may take.")] = 120.0,
    metrics_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port of /metrics for Prometheus.")] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM file; with --tls-key makes it TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file.")] = None,
    tls_client_ca: Annotated[Path | None, typer.Option(help="PEM file: clients must show a certificate of it.")] = None,
    checkpoints: Annotated[Path | None, typer.Option(help="Folder of safetensors files that requests may name.")] = None,
) -> None:
    """Serve simulators over gRPC until interrupted; callers send $FEDCOSIM_HWSIM_TOKEN if it is set here."""
    from ..hwsim.service import Host, Limits, Tls, build
    from ..hwsim.simulators import SIMULATORS
    from .architectures import example
    from .architectures import names as model_names
    from .cli import stderr
    from .trained import Trained

    if (tls_certificate is None) != (tls_key is None):
        raise SpecError("--tls-certificate and --tls-key: give both or neither")
    wanted = [name for name in names or ["all"] if name != "all"] or list(SIMULATORS)
    tls = Tls.read(tls_certificate, tls_key, tls_client_ca) if tls_certificate and tls_key else None
    limits = Limits(concurrency, deadline_s)
    simulators = build(wanted, models=example, model_names=model_names(), trained=Trained(checkpoints))
    server = Host(simulators, f"{host}:{port}", limits, tls, os.environ.get(TOKEN), metrics_port)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    server.start()
    stderr.print(f"serving {', '.join(wanted)} on {host}:{server.port}", highlight=False)
    ended.wait()
    stderr.print("finishing what is in work")
    server.stop()


@estimate.command()
def roofline(
    device: Annotated[str, typer.Option(help="Name of a device; see `fedcosim list devices`.")],
    model: Annotated[str | None, typer.Option(help="An architecture, such as lenet or vit-b16.")] = None,
    llm: Annotated[str | None, typer.Option(help="A large language model, such as llama-2-7b.")] = None,
    batch: Annotated[int, typer.Option(help="Samples or sequences at once.")] = 1,
    train: Annotated[bool, typer.Option("--train", help="A training step instead of inference (--model).")] = False,
    optimizer: Annotated[str, typer.Option(help="sgd, momentum, adam or adamw (--train).")] = "sgd",
    per_sample: Annotated[bool, typer.Option("--per-sample", help="DP-SGD: a gradient a sample (--train).")] = False,
    precision: Annotated[str, typer.Option(help="fp32, fp16, bf16, int8 or int4 (--model).")] = "fp32",
    image: Annotated[str | None, typer.Option(help="Channels x height x width, such as 3x224x224 (--model).")] = None,
    stage: Annotated[str, typer.Option(help="prefill, decode or generate (--llm).")] = "prefill",
    context: Annotated[int, typer.Option(help="Tokens read (--llm).")] = 1024,
    generated: Annotated[int, typer.Option(help="Tokens generated (--llm, stage generate).")] = 0,
    weight_bits: Annotated[int, typer.Option(help="2, 3, 4, 6, 8, 16 or 32 (--llm).")] = 16,
    activation_bits: Annotated[int, typer.Option(help="Likewise.")] = 16,
    kv_bits: Annotated[int, typer.Option(help="Likewise.")] = 16,
    fused_attention: Annotated[bool, typer.Option("--fused-attention", help="FlashAttention (--llm).")] = False,
    viewer: Annotated[bool, typer.Option("--viewer", help="LLM-Viewer's numbers, slips included (--llm).")] = False,
    fallback: Annotated[bool, typer.Option("--fallback", help="Wider units where the device lacks the precision.")] = False,
    operators: Annotated[int, typer.Option(help="Slowest operators that are listed; 0 for all.")] = 20,
    chart: Chart = None,
    endpoint: Endpoint = None,
    as_json: Json = False,
) -> None:
    """Say what a model takes on a device: time, memory, energy, and what bounds it."""
    from ..hwsim.roofline.simulator import RooflineRequest
    from .architectures import example

    fields: dict[str, Any] = {"device": device, "precision_fallback": fallback, "most_operators": operators}
    if model is not None:
        sizes = dict(zip(("channels", "height", "width"), _sizes(image), strict=True)) if image else {}
        training = {"train": train, "optimizer": optimizer, "per_sample": per_sample}
        fields["model"] = {"name": model, "batch": batch, "precision": precision, **training, **sizes}
    if llm is not None:
        fields["llm"] = {
            **{"model": llm, "mode": "viewer" if viewer else "corrected", "stage": stage, "batch": batch},
            **{"context": context, "generated": generated, "fused_attention": fused_attention},
            **{"weight_bits": weight_bits, "activation_bits": activation_bits, "kv_bits": kv_bits},
        }
    request = validate(RooflineRequest, fields)
    report = connect(endpoint, os.environ.get(TOKEN), models=example).estimate("roofline", request)
    if chart is not None:
        from ..hwsim.roofline.figures import write_chart

        write_chart([report], chart)
    _show(report, f"{model or llm} on {device}", as_json)


@estimate.command()
def neomem(
    trace: Annotated[str, typer.Option(help="A generator (gups, zipf, ...), a file (.npz, .i32, .i64), or train:MODEL.")],
    policy: Annotated[str, typer.Option(help="Who moves pages.")] = "neomem",
    against: Annotated[str, typer.Option(help="Policies to compare with, separated by commas.")] = "",
    fast_to_slow: Annotated[float, typer.Option(help="Fast memory over the rest of the footprint.")] = 0.5,
    accesses: Annotated[int | None, typer.Option(help="Accesses of a generated trace.")] = None,
    repeats: Annotated[int | None, typer.Option(help="Times that a file (1) or a recorded step (20) is run.")] = None,
    profile: Annotated[str, typer.Option(help="paper or artifact, where they differ.")] = "paper",
    batch: Annotated[int, typer.Option(help="Samples of the recorded step (train:MODEL).")] = 32,
    device: Annotated[str | None, typer.Option(help="Whose step time train:MODEL has; a memory-bound one when absent.")] = None,
    seed: Annotated[int, typer.Option(help="Of the generator and of samplers.")] = 1,
    chart: Chart = None,
    endpoint: Endpoint = None,
    as_json: Json = False,
) -> None:
    """Say what it costs that part of memory is behind CXL, and what a policy that moves pages gains."""
    from ..hwsim.neomem import NeoMemRequest

    client = connect(endpoint, os.environ.get(TOKEN))
    fields: dict[str, Any] = {"policy": policy, "profile": profile, "seed": seed, "platform": {"fast_to_slow": fast_to_slow}}
    fields["against"] = [name.strip() for name in against.split(",") if name.strip()]
    if trace.startswith("train:"):
        recorded, seconds = _recorded(trace.removeprefix("train:"), batch, device)
        fields |= {"trace_id": client.upload(recorded), "repeats": repeats or RECORDED_STEPS, "compute_seconds": seconds}
    elif Path(trace).suffix in (".npz", ".i32", ".i64"):
        from ..hwsim.neomem.traces import load

        fields |= {"trace_id": client.upload(load(Path(trace))), "repeats": repeats or 1}
    else:
        fields["synthetic"] = {"generator": trace} | ({} if accesses is None else {"accesses": accesses})
    report = client.estimate("neomem", validate(NeoMemRequest, fields))
    if chart is not None:
        from ..hwsim.neomem.figures import write_chart

        write_chart(report, chart)
    _show(report, f"{policy} on {trace}", as_json)


@estimate.command()
def reram(
    model: Annotated[str, typer.Option(help="An architecture, such as lenet.")],
    data: Annotated[str, typer.Option(help="digits, fashion-mnist, mnist or cifar10.")] = "digits",
    mode: Annotated[str, typer.Option(help="functional: run samples; stats: expect bit lines from shapes.")] = "functional",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights, a safetensors file; trained here when absent.")] = None,
    adc: Annotated[str, typer.Option(help="ideal, uniform, uniform_calibrated, trq or lloyd_max.")] = "trq",
    bits: Annotated[int, typer.Option(help="Of the converters; 0: calibrated (not ideal, not trq).")] = 0,
    granularity: Annotated[str, typer.Option(help="layer or slice: what has converters of its own.")] = "layer",
    budget: Annotated[float, typer.Option(help="Accuracy that converters may cost on tuning data.")] = 0.01,
    cells: Annotated[int, typer.Option(help="Bits of a cell: 1, 2, 4 or 8.")] = 1,
    encoding: Annotated[str, typer.Option(help="offset or differential.")] = "offset",
    rows: Annotated[int, typer.Option(help="Word lines of a crossbar.")] = 128,
    energy_model: Annotated[str, typer.Option(help="isaac, cdac_weighted, murmann or neurosim.")] = "isaac",
    phase: Annotated[str, typer.Option(help="evaluate or train.")] = "evaluate",
    samples: Annotated[int, typer.Option(help="What energy, time and counts are of.")] = 1,
    trained_on: Annotated[int, typer.Option(help="Samples that training runs; epochs are whole.")] = 60_000,
    seed: Annotated[int, typer.Option(help="Of training.")] = 1,
    chart: Annotated[Path | None, typer.Option(help="Where a figure goes (.svg, .png, .pdf).")] = None,
    endpoint: Endpoint = None,
    as_json: Json = False,
) -> None:
    """Say what a model on ReRAM crossbars takes, and how accurate it is behind their A/D converters."""
    from ..hwsim.reram.request import ReramRequest
    from .trained import Trained

    fields: dict[str, Any] = {
        **{"mode": mode, "model": model, "data": data},
        "preparation": {"seed": seed, "trained_on": trained_on} | ({"checkpoint": checkpoint.name} if checkpoint else {}),
        "adc": {"kind": adc, "bits": bits, "granularity": granularity},
        "calibration": {"accuracy_budget": budget},
        "crossbar": {"cell_bits": cells, "encoding": encoding, "rows": rows},
        "energy": {"model": energy_model},
        "workload": {"phase": phase, "samples": samples},
    }
    if endpoint and checkpoint and checkpoint.parent != Path():
        raise SpecError(f"--checkpoint {checkpoint}: a service has a folder of its own; give a name without folders")
    request = validate(ReramRequest, fields)
    if request.mode == "stats":
        from .trained import layers_of

        request = request.model_copy(update={"layers": layers_of(model, data)})
    trained = Trained(checkpoint.parent if checkpoint else None)
    report = connect(endpoint, os.environ.get(TOKEN), trained=trained).estimate("reram", request)
    if chart is not None:
        from ..hwsim.reram.figures import page

        page(report).savefig(chart)
    _show(report, f"{model} on ReRAM crossbars", as_json)


def _recorded(name: str, batch: int, device: str | None) -> tuple[Any, float | None]:
    """Record what a training step of an architecture does to memory; tell its time on a device too, if one is named."""
    import torch

    from ..hwsim.neomem.recorder import record_step
    from ..hwsim.roofline.simulator import ModelRequest, RooflineRequest
    from .architectures import example

    request = ModelRequest(name=name, batch=batch, train=True, optimizer="adam")
    built = example(request)
    model = built.model.to_empty(device="cpu").train()
    tensors = [torch.zeros_like(x, device="cpu") for x in (*built.inputs, *built.targets)]
    for tensor in (*model.parameters(), *model.buffers()):
        torch.nn.init.zeros_(tensor)
    recorded = record_step(model, torch.optim.Adam(model.parameters()), lambda: built.loss(model, *tensors))
    if device is None:
        return recorded, None
    where = RooflineRequest(device=device, model=request)
    return recorded, connect(models=example).estimate("roofline", where).time_s


@app.command()
def calibrate(
    name: Annotated[str, typer.Option(help="What this computer is called from now on.")] = "this-computer",
    threads: Annotated[int, typer.Option(min=1, help="Threads that clients are given.")] = 1,
    write: Annotated[bool, typer.Option(help="Add it to your own file of devices.")] = True,
    as_json: Json = False,
) -> None:
    """Measure what this computer attains, and add it to your devices."""
    from ..hwsim.roofline.calibrate import add, measure
    from .cli import stdout

    device = measure(threads)
    path = add(name, device) if write else None
    if as_json:
        from .cli import print_json

        print_json(device.model_dump(mode="json", exclude_none=True))
        return
    stdout.print(device)
    if path is not None:
        stdout.print(f"{name} is now in {path}", highlight=False)


def _sizes(image: str) -> list[int]:
    parts = image.lower().split("x")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise SpecError(f"--image {image!r}: must be channels x height x width, such as 3x224x224")
    return [int(part) for part in parts]


def _show(report: Report, title: str, as_json: bool) -> None:
    from .cli import print_json, stdout

    document = report.as_dict()
    if as_json:
        print_json(document)
        return
    from rich.table import Table

    figures = Table("figure", "value", title=title)
    for key, value in _flat(document):
        figures.add_row(key, f"{value:.6g}" if isinstance(value, float) else str(value))
    stdout.print(figures)
    rows = document.get("operators")
    if rows:
        table = Table(*(key for key in rows[0]), title="Slowest operators")
        for row in rows:
            table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
        stdout.print(table)


def _flat(document: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    figures: list[tuple[str, Any]] = []
    for key, value in document.items():
        if isinstance(value, Mapping):
            figures += _flat(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            figures.append((f"{prefix}{key}", value))
        elif value and isinstance(value[0], str):
            figures.append((f"{prefix}{key}", "; ".join(value)))
    return figures
