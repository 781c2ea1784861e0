"""Check everything that needs a GPU on a machine that has one, in at most eight minutes.

    python tools/gpu_check.py [--out FOLDER] [--only PART ...] [--dry]

Runs these parts in order, each in a process and with a time limit of its own: ``versions``; ``tests``, those with the
marker ``cuda``; ``training``, 200 steps on synthetic shapes with AP; ``train_2`` and ``train_12``, training steps of
Faster and Mask R-CNN R50-FPN with 2 and 12 images of 800 x 1344 in bfloat16, beside torchvision; the same compiled;
``infer``; ``operations``, RoIAlign and NMS; ``waits``, the lines that make the host wait; ``profile``, the kernels of
training steps. The data is generated. ``--dry`` runs every part on the CPU with tiny sizes, in one variant.

Each result is appended to FOLDER/results.jsonl as soon as it is there, the output of a part is FOLDER/PART.log, and a
table ends it. A part that lacks a package is left out, and the table names the package.
"""

# A machine without a package index, with Python 3.12, torch 2.11, torchvision 0.26, lightning, torchmetrics, timm,
# opencv, scipy, matplotlib, scikit-image, scikit-learn, rich, tensorboard, jinja2, lazy-loader, safetensors, pytest,
# pytest-xdist and hypothesis, lacks these wheels. Bring them along:
#
#   pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#       --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
#       --platform manylinux2014_x86_64 -d wheels \
#       albucore==0.0.24 albumentations==2.0.8 annotated-types==0.8.0 defusedxml==0.7.1 docstring_parser==0.18.0 \
#       faster-coco-eval==1.8.0 jsonargparse==4.53.0 orjson==3.13.0 pycocotools==2.0.11 pydantic==2.14.3 \
#       pydantic_core==2.50.4 simsimd==6.5.16 stringzilla==5.3.2 typeshed_client==2.14.0 typing-inspection==0.4.5
#
# and there: pip install --no-index --no-deps --target site wheels/*.whl && export PYTHONPATH=site

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import runpy
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "torch",
    "torchvision",
    "triton",
    "lightning",
    "torchmetrics",
    "numpy",
    "timm",
    "onnxruntime",
    "pytest-xdist",
)
DENSE_BF16 = {"H100": 989.4, "H200": 989.4, "A100": 312.0}  # TFLOP/s of tensor cores without sparsity, by NVIDIA


class Settings(NamedTuple):
    """The device and the sizes that the parts run with."""

    out: Path
    dry: bool

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"

    @property
    def half(self) -> bool:
        """True for bfloat16, which many a CPU computes slowly."""
        return not self.dry

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of images."""
        return (64, 96) if self.dry else (800, 1344)


Report = Callable[..., None]
"""Keeps the values of a part so far: what is reported is not lost if the part is stopped later."""

Part = Callable[[Settings, Report], None]


def versions(settings: Settings, report: Report) -> None:
    for package in PACKAGES:
        try:
            report(**{package: version(package)})
        except PackageNotFoundError:
            report(**{package: "missing"})
    report(python=platform.python_version(), cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version())
    if settings.device == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]
        report(gpu=torch.cuda.get_device_name(), capability=torch.cuda.get_device_capability())
        with contextlib.suppress(OSError):  # where the driver comes without it
            report(driver=subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip())


class Outcomes:
    """Plugin of pytest that reports after each test."""

    def __init__(self, report: Report) -> None:
        self.report, self.counts, self.failures = report, defaultdict[str, int](int), list[str]()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
            if report.failed:
                self.failures.append(report.nodeid)
            self.report(**self.counts, failures=self.failures)


def tests(settings: Settings, report: Report) -> None:
    import pytest

    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "2"  # of each of several processes
    where = [str(ROOT / "tests" / "cuda")]
    if settings.dry:
        where = [str(ROOT / "tests" / "cuda" / "test_ops.py"), "-k", "area or waits"]
    try:
        version("pytest-xdist")
        workers = [] if settings.dry else ["-n", "8", "--dist", "worksteal"]
    except PackageNotFoundError:
        workers = []
    options = ["-v", "--tb=short", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
    code = pytest.main([*where, "-m", "cuda", *options, *workers], plugins=[Outcomes(report)])
    if code:
        raise RuntimeError(f"pytest ended with {code!r}")


def training(settings: Settings, report: Report) -> None:
    """Train Faster R-CNN on shapes from random weights, with its own task, and evaluate it."""
    from lightning.pytorch import Trainer, seed_everything

    from detseg.data import Shapes
    from detseg.models import FasterRCNN
    from detseg.modules import FPN, RPN, AnchorGenerator, RoIHeads, TwoMLPHead
    from detseg.modules.backbones import ResNet
    from detseg.tasks import DetectionTask
    from detseg.tasks.optimization import OptimizerConfig, ScheduleConfig

    seed_everything(0, verbose=False)
    steps, images, workers = (2, 2, 0) if settings.dry else (200, 16, 8)
    rpn = RPN(AnchorGenerator([[16], [32], [64], [128]]), pre_nms_top_n=(500, 200), post_nms_top_n=(300, 100))
    backbone = FPN(ResNet("resnet18", stages=[2, 3, 4]), channels=64)
    model = FasterRCNN(backbone, 5, rpn, RoIHeads(box_head=TwoMLPHead(256)))
    optimizer, schedule = OptimizerConfig("adamw"), ScheduleConfig("cosine", warmup_steps=10)
    task = DetectionTask(model, lr=0.001, reference_batch=images, optimizer=optimizer, schedule=schedule)
    root, train, val = settings.out / f"shapes_{settings.device}", *((4, 2) if settings.dry else (400, 50))
    data = Shapes(str(root), train=train, val=val, batch_size=images, num_workers=workers)
    data.setup("fit")
    report(objects=len(data.train_annotations.boxes))
    trainer = Trainer(
        accelerator="cpu" if settings.dry else "gpu",
        devices=1,
        precision="bf16-mixed" if settings.half else "32-true",
        max_steps=steps,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=settings.out,
    )
    start = time.perf_counter()
    trainer.fit(task, data)
    report(steps=trainer.global_step, images_per_second=steps * images / (time.perf_counter() - start))
    report(loss=float(trainer.callback_metrics["train/loss"]))
    trainer.limit_val_batches = 1.0
    trainer.validate(task, data, verbose=False)
    report(AP=task.metric_values["AP"], AP50=task.metric_values["AP50"], val_loss=task.metric_values["loss"])


def benchmark(settings: Settings, report: Report, parts: str, batch: int = 2, compiled: bool = False) -> None:
    """Run ``tools/benchmark.py``."""
    if settings.dry:
        if compiled or batch > 2:
            report(reason="not on a CPU")
            return
        parts = parts.split()[0]
    figures = settings.out / f"benchmark_{parts.replace(' ', '_')}_{batch}{'_compiled' * compiled}.json"
    size = ["--size", *map(str, settings.size), "--batch", str(1 if settings.dry else batch)]
    repeats = ["--repeats", "1", "--threads", "1"] if settings.dry else ["--repeats", "5", "--threads", "8"]
    options = [
        *size,
        *repeats,
        "--precision",
        "bf16" if settings.half else "fp32",
        "--device",
        settings.device,
        *["--compile"] * compiled,
    ]
    sys.argv = ["benchmark.py", *parts.split(), *options, "--json", str(figures)]
    runpy.run_path(str(ROOT / "tools" / "benchmark.py"), run_name="__main__")
    report(**json.loads(figures.read_text(encoding="utf-8"))["parts"])


def training_step(settings: Settings, batch: int, masks: bool) -> Callable[[], object]:
    """One training step of Faster or Mask R-CNN R50-FPN in bfloat16."""
    from benchmarks import detectors

    shape = detectors.Shape(1 if settings.dry else batch, *settings.size)
    sides = {"detseg": detectors.models(settings.device, shape, masks)["detseg"]}
    objects = detectors.MASKED_OBJECTS if masks else detectors.OBJECTS
    data = detectors.batch(shape, settings.device, objects, masks)
    model = sides["detseg"].train()
    return detectors.step(model, lambda: model.loss(data), settings.device, settings.half)  # type: ignore[operator]


def waits(settings: Settings, report: Report) -> None:
    """Name the lines that make the host wait for the GPU, as PyTorch's debug mode does."""
    from benchmarks import detectors

    def lines(call: Callable[[], object]) -> list[str]:
        call()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if settings.device == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            call()
            if settings.device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        return [f"{one.filename}:{one.lineno}" for one in caught if "synchronizing" in str(one.message)]

    for masks in (False, True)[: 1 if settings.dry else None]:
        name = "mask_rcnn" if masks else "faster_rcnn"
        report(**{f"{name}_training": lines(training_step(settings, 2, masks))})
        infer = detectors.mask_infer if masks else detectors.infer
        shape = detectors.Shape(1, *settings.size)
        report(**{f"{name}_inference": lines(infer(settings.device, settings.half, shape)["detseg"])})


def busy(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of spans of time."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def profile(settings: Settings, report: Report) -> None:
    """List the kernels of training steps, the time between them, and the share of what tensor cores can do."""
    from benchmark import operations_of, peak
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity

    on_gpu = settings.device == "cuda"
    device_type = DeviceType.CUDA if on_gpu else DeviceType.CPU
    measured = peak(settings.device, settings.half) / 1e9  # TFLOP/s of a large product or convolution
    report(measured_peak=measured)
    gpu = torch.cuda.get_device_name() if on_gpu else ""
    limit = next((value for name, value in DENSE_BF16.items() if name in gpu), measured)
    for images, masks in ((12, False), (12, True), (2, False))[: 1 if settings.dry else None]:
        name, steps = f"{'mask' if masks else 'faster'}_rcnn_{images}", 1 if settings.dry else 3
        step = training_step(settings, images, masks)
        flops = operations_of(step)
        for _ in range(1 if settings.dry else 3):
            step()
        with torch.profiler.profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu) as profiler:
            for _ in range(steps):
                step()
            if on_gpu:
                torch.cuda.synchronize()
        events = [event for event in profiler.events() if event.device_type == device_type]
        kernels = [event for event in events if not getattr(event, "is_user_annotation", False)]
        spans = [(event.time_range.start, event.time_range.end) for event in kernels]
        whole = max(stop for _, stop in spans) - min(start for start, _ in spans)  # microseconds
        times: dict[str, list[float]] = defaultdict(list)
        for event in kernels:
            times[event.name].append(event.time_range.elapsed_us() / 1000 / steps)
        top = sorted(times.items(), key=lambda pair: -sum(pair[1]))[:30]
        figures = {
            "ms": whole / 1000 / steps,
            "kernels": len(kernels) // steps,
            "gaps": 1 - busy(spans) / whole,
            "tensor_core_share": flops * steps / (whole / 1e6) / 1e12 / limit,
            "top": [{"name": kernel[:120], "ms": sum(each), "calls": len(each) // steps} for kernel, each in top],
        }
        report(**{name: figures})
        for row in figures["top"]:  # type: ignore[attr-defined]
            print(f"{row['ms']:9.3f} ms {row['calls']:6d} x {row['name']}")


PARTS: dict[str, tuple[float, Part]] = {
    "versions": (20, versions),
    "tests": (110, tests),
    "training": (45, training),
    "train_2": (25, partial(benchmark, parts="train mask_train")),
    "train_12": (30, partial(benchmark, parts="train mask_train", batch=12)),
    "train_2_compiled": (90, partial(benchmark, parts="train", compiled=True)),
    "train_12_compiled": (90, partial(benchmark, parts="train", batch=12, compiled=True)),
    "mask_train_2_compiled": (90, partial(benchmark, parts="mask_train", compiled=True)),
    "mask_train_12_compiled": (90, partial(benchmark, parts="mask_train", batch=12, compiled=True)),
    "infer": (25, partial(benchmark, parts="infer mask_infer")),
    "operations": (15, partial(benchmark, parts="nms roi_align")),
    "waits": (15, waits),
    "profile": (25, profile),
}
"""The parts with their time limits in seconds. Those that compile may have what the others leave of ``BUDGET``."""

BUDGET = 8 * 60.0  # seconds for all parts


def work(part: Part, settings: Settings, name: str) -> None:
    """Run a part in this new process; its output goes to a file, and its values to another."""
    os.setsid()  # so that what it starts ends with it
    if settings.dry:
        torch.set_num_threads(1)
    log = os.open(settings.out / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    values: dict[str, Any] = {}

    def report(**more: Any) -> None:
        values.update(more)
        values_file(settings, name).write_text(json.dumps(values, default=str), encoding="utf-8")

    try:
        part(settings, report)
        report(status="left out" if "reason" in values else "done")
    except ImportError as error:
        report(status="left out", reason=str(error))
    except BaseException as error:
        traceback.print_exc()
        report(status="failed", reason=f"{type(error).__name__}: {error}"[:500])
    sys.stdout.flush()
    os._exit(0)  # threads of a library cannot keep it from ending


def values_file(settings: Settings, name: str) -> Path:
    return settings.out / f"{name}.values.json"


def time_limit(names: list[str], left: float) -> float:
    """Seconds for the first of the parts that are still to run, of those that are ``left`` for all of them."""
    reserved = sum(PARTS[name][0] for name in names[1:] if "compiled" not in name)
    return max(1.0, min(PARTS[names[0]][0], left - reserved))


def run(name: str, settings: Settings, limit: float) -> dict[str, Any]:
    """Run a part for as long as it may, and append its result to the file."""
    _, part = PARTS[name]
    values_file(settings, name).unlink(missing_ok=True)
    start = time.perf_counter()
    # A fork has imported everything already, and can use the GPU because this process never does.
    process = multiprocessing.get_context("fork").Process(target=work, args=(part, settings, name))
    process.start()
    assert process.pid
    try:
        process.join(limit)
        reason = f"stopped after {limit:.3g} s" if process.is_alive() else f"ended with code {process.exitcode}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.join()
    seconds = round(time.perf_counter() - start, 1)
    result = {"part": name, "seconds": seconds, "status": "failed", "reason": reason}
    if values_file(settings, name).exists():
        values = json.loads(values_file(settings, name).read_text(encoding="utf-8"))
        result = {**result, **({"reason": ""} if "status" in values else {}), **values}
    with (settings.out / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    return result


def summary(result: dict[str, Any]) -> str:
    """The numbers of a result in one line."""
    shown = [str(result["reason"])] if result.get("reason") else []
    for name, value in result.items():
        match value:
            case {"detseg": {"ms": ms}, "ratio": ratio}:
                shown.append(f"{name} {ms:.1f} ms (ratio {ratio:.2f})")
            case {"ms": ms, "gaps": gaps, "tensor_core_share": share}:
                shown.append(f"{name} {ms:.1f} ms, gaps {gaps:.0%}, {share:.0%} of the limit")
            case list():
                shown.append(f"{name} {len(value)}")
            case int() | float() if name != "seconds":
                shown.append(f"{name} {value:.4g}")
            case str() if name in ("gpu", "torch", "cuda"):
                shown.append(f"{name} {value}")
    return ", ".join(shown)


def preload() -> None:
    """Import what the parts need, so that each fork has it. No fork could use the GPU if any of it touched that."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    with contextlib.suppress(ImportError):  # the part will say so
        import benchmark  # noqa: F401

        import detseg.tasks  # noqa: F401


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), help="folder of the results")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--dry", action="store_true", help="on the CPU, with tiny sizes")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the part that runs
    settings = Settings(arguments.out.resolve(), arguments.dry)
    settings.out.mkdir(parents=True, exist_ok=True)
    preload()
    results, start = [], time.perf_counter()
    names = [name for name in PARTS if name in arguments.only]
    for index, name in enumerate(names):
        limit = time_limit(names[index:], start + BUDGET - time.perf_counter())
        results.append(run(name, settings, 10 * BUDGET if settings.dry else limit))  # a CPU may be slow
        print(f"{name} {results[-1]['status']} in {results[-1]['seconds']} s", flush=True)
    print(f"\n{'part':24}{'status':10}{'seconds':>8}  figures")
    for result in results:
        print(f"{result['part']:24}{result['status']:10}{result['seconds']:8.1f}  {summary(result)}")
    print(f"\n{settings.out / 'results.jsonl'}")
    sys.exit(any(result["status"] == "failed" for result in results))


if __name__ == "__main__":
    main()
