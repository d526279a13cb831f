"""The GPU bench on a CPU and a small Llama: its kits train the same thing, and its arithmetic is right."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gpu
import gpu_plan
import gpu_profile
import gpu_train
import pytest
import random_llama
import torch
import update_readme
from bitsandbytes.nn import Linear4bit
from gpu_kits import KITS, LoraKit, LoraKitSmall, Rows, Setup, padded

from lora_kit.presets import profile
from lora_kit.training.forward import compute_dtype_of

SMALL = random_llama.SHAPE | random_llama.SMALL


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = tmp_path_factory.mktemp("base")
    random_llama.write_nf4(folder, SMALL)
    told = {"base__source": str(folder), "training__learning_rate": 2e-4, "lora__target_modules": "all-linear"}
    return Setup(folder, replace(profile("llama2-7b-t4", **told), device="cpu"), folder / "scratch")


def packed(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([module.weight.flatten() for module in model.modules() if isinstance(module, Linear4bit)])


@pytest.mark.filterwarnings("ignore::FutureWarning")  # what peers and their libraries call is theirs
def test_weights_stored_in_4_bits_are_those_that_a_kit_would_make_of_the_float16_ones(
    setup: Setup, tmp_path: Path
) -> None:
    random_llama.write(tmp_path, SMALL)
    plain = LoraKit(replace(setup, base=tmp_path)).model
    for kit in ("lora_kit", "trainer"):
        model = KITS[kit](setup).model
        assert torch.equal(packed(model), packed(plain))
        assert compute_dtype_of(model) == torch.float32 and model.dtype == torch.float32  # a CPU's, in all of it
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        stored, made = (model(ids).logits for model in (LoraKit(setup).model, plain))
    assert torch.allclose(stored, made, atol=1e-3)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kit", ["trainer", "trl"])
def test_the_peers_begin_with_our_loss_and_get_our_gradient_s_effect(setup: Setup, kit: str) -> None:
    if kit == "trl":
        pytest.importorskip("trl")
    rows = gpu_train.rows_like("64", 512)
    ours, theirs = LoraKit(setup).prepare(rows, 256, 4)(), KITS[kit](setup).prepare(rows, 256, 4)()
    assert len(ours) == len(theirs) == 2
    assert sum(ours) / 2 == pytest.approx(sum(theirs) / 2, abs=2e-3)  # the rows' order differs, their mean does not


def test_a_kit_starts_anew_each_time(setup: Setup) -> None:
    work, rows = LoraKit(setup), gpu_train.rows_like("64", 256)
    assert work.prepare(rows, 256, 4)() == work.prepare(rows, 256, 4)()


def test_in_little_memory_the_same_is_learned_with_every_layer_computed_twice(setup: Setup) -> None:
    rows, losses = gpu_train.rows_like("64", 512), []
    for kit in (LoraKit, LoraKitSmall):
        work = kit(setup)
        losses.append(work.prepare(rows, 256, 4)())
        assert work.layers == (kit is LoraKitSmall)  # of two layers the last is never computed again
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.parametrize("case", ["handbook", "alpaca", "512", "2048"])
def test_ours_takes_as_many_optimizer_steps_as_the_peers(setup: Setup, case: str) -> None:
    rows = gpu_train.rows_like(case, 5 * gpu_train.STEP)
    batch = max(1, gpu_train.STEP // 2 // max(len(ids) for ids, _ in rows))
    steps = LoraKit(setup).steps(rows, gpu_train.STEP, batch)
    assert len(steps) == {"handbook": 5, "alpaca": 6, "512": 5, "2048": 5}[case]  # what TRL and Trainer took on a card
    assert sum(len(batch.rows) for step in steps for batch in step) == len(rows)


@pytest.mark.parametrize("case", ["handbook", "alpaca", "512"])
def test_rows_have_the_tokens_that_are_asked_for_and_learn_a_part(case: str) -> None:
    rows = gpu_train.rows_like(case, 8192)
    assert gpu_train.total(rows) == pytest.approx(8192, rel=0.15)
    assert all(len(ids) == len(labels) and 0 < sum(n >= 0 for n in labels) < len(ids) for ids, labels in rows)
    assert rows == gpu_train.rows_like(case, 8192)


def test_what_the_trainer_gets_is_padded_on_the_right() -> None:
    given = padded([{"input_ids": [5, 6], "labels": [-100, 6]}, {"input_ids": [7], "labels": [7]}])
    assert given["input_ids"].tolist() == [[5, 6], [7, 0]]
    assert given["labels"].tolist() == [[-100, 6], [7, -100]] and given["attention_mask"].tolist() == [[1, 1], [1, 0]]


class Card:
    """A kit whose memory holds so many tokens at a time."""

    def __init__(self, room: int) -> None:
        self.room, self.tried = room, list[int]()

    def prepare(self, rows: Rows, tokens_per_step: int, batch: int) -> Callable[[], list[float]]:
        self.tried.append(batch)
        if batch * max(len(ids) for ids, _ in rows) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return lambda: [1.0]


def test_a_peer_s_batch_is_halved_until_it_fits_and_none_is_said() -> None:
    work = Card(room=1024)
    found = gpu_train.timed(work, gpu_train.rows_like("512", 4096))
    assert found is not None and found["batch"] == 2 and set(work.tried) == {4, 2}
    assert found["seconds_per_million"]["learned"] == pytest.approx(2 * found["seconds_per_million"]["seen"])
    assert gpu_train.timed(Card(room=100), gpu_train.rows_like("512", 4096)) is None


@pytest.mark.parametrize(("room", "longest"), [(1600, 1536), (4096, 4096), (9999, 4096), (511, 0)])
def test_the_longest_row_is_found(room: int, longest: int) -> None:
    assert gpu_train.longest(Card(room), range(512, 4097, 512)) == longest


def test_the_plan_is_asked_for_settings_that_span_them_all(setup: Setup) -> None:
    found = gpu_plan.plan_against_card(setup, 256)
    assert len(found["settings"]) == 2 and all(one["said"] > 0 for one in found["settings"])
    assert found["least_off"] is None  # no card, no claim
    assert len(gpu_plan.SETTINGS) == 12
    assert all(len({*values}) > 1 for values in zip(*gpu_plan.SETTINGS, strict=True))


FWD, BWD = "autograd::engine::evaluate_function: MulBackward0", "MulBackward0"


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            "attention",
            ["cudnn_generated_fort_native_sdpa_sm90_knob_7_flash_fprop_f16", "aten::_cudnn_attention_forward"],
        ),
        ("attention", ["fmha_cutlassB_f16_aligned_64x64_k128_dropout_sm80", "aten::_efficient_attention_backward"]),
        ("attention", ["void pytorch_flash::flash_bwd_kernel<...>", "aten::_flash_attention_backward"]),
        ("attention", ["void at::native::elementwise_kernel<...>", "aten::copy_", "aten::_flash_attention_backward"]),
        (
            "weights out of 4 bits",
            ["void kDequantizeBlockwise<__half, 512, 64, 8, 2>(...)", "bitsandbytes::dequantize_4bit"],
        ),
        ("weights out of 4 bits", ["kDequantizeBlockwise", "bitsandbytes::dequantize_blockwise", "in a LoRA"]),
        (
            "matrix products",
            ["nvjet_hsh_128x256_64x4_2x1_v_bz_coopA_TNT", "aten::mm", "MatMul4Bit", "in a linear layer"],
        ),
        ("matrix products", ["turing_fp16_s1688gemm_fp16_128x128_ldg8_f2f_nn", "aten::mm", "MatMul4BitBackward"]),
        ("LoRA", ["nvjet_hsh_64x8_64x16_4x1_v_bz_TNN", "aten::mm", "aten::linear", "in a LoRA", "in an attention"]),
        ("LoRA", ["void at::native::elementwise_kernel<...>", "aten::copy_", "aten::to", "in a LoRA", "in an MLP"]),
        ("dropout", ["void at::native::fused_dropout_kernel_vec<...>", "aten::native_dropout", "in a LoRA"]),
        ("dropout", ["void at::native::vectorized_elementwise_kernel<...>", "aten::native_dropout_backward", "x"]),
        ("norms and rotary", ["void at::native::reduce_kernel<...>", "aten::mean", "in a norm"]),
        ("norms and rotary", ["void at::native::elementwise_kernel<...>", "aten::copy_", "aten::to", "in a norm"]),
        ("norms and rotary", ["void at::native::elementwise_kernel<...>", "aten::mul", BWD, FWD, "in an attention"]),
        ("activation", ["void at::native::vectorized_elementwise_kernel<...>", "aten::silu_backward", "in an MLP"]),
        (
            "casts and copies",
            ["void at::native::elementwise_kernel<...>", "aten::copy_", "aten::to", "in a linear layer"],
        ),
        ("casts and copies", ["Memcpy DtoD (Device -> Device)"]),
        ("loss", ["void at::native::cunn_SoftMaxForward<...>", "aten::_log_softmax"]),
        ("loss", ["void at::native::nll_loss_backward_reduce_cuda_kernel_2d<...>", "aten::nll_loss_backward"]),
        (
            "optimizer",
            ["void at::native::multi_tensor_apply_kernel<...>", "aten::_foreach_add_", "Optimizer.step#AdamW.step"],
        ),
        (
            "optimizer",
            ["void at::native::vectorized_elementwise_kernel<...>", "aten::mul", "Optimizer.step#AdamW.step"],
        ),
        ("residuals, all else", ["void at::native::vectorized_elementwise_kernel<...>", "aten::add"]),
    ],
)
def test_a_kernel_counts_where_it_belongs(kind: str, names: list[str]) -> None:
    assert gpu_profile.kind_of(names) == kind
    assert kind in gpu_profile.KINDS


def event(name: str, start: int, **more: object) -> SimpleNamespace:
    """A profiler's event; what a CPU operation starts is `kernels`."""
    plain = {"device_type": torch.autograd.DeviceType.CPU, "kernels": [], "cpu_parent": None, "thread": 1}
    when = SimpleNamespace(start=start, elapsed_us=lambda: 5.0)
    plain |= {"sequence_nr": -1, "fwd_thread": 0, "is_user_annotation": False, "time_range": when}
    return SimpleNamespace(**(plain | {"name": name} | more))


def test_a_kernel_s_names_lead_through_the_backward_pass_to_its_module_and_none_is_lost_or_counted_twice() -> None:
    module = event("in an MLP", 0)
    forward = event("aten::silu", 1, cpu_parent=module, sequence_nr=7)
    kernel = SimpleNamespace(name="vectorized<silu>", duration=3.0)
    engine = event("autograd::engine::evaluate_function: SiluBackward0", 2, sequence_nr=7, fwd_thread=1, thread=2)
    backward = event("aten::silu_backward", 3, cpu_parent=engine, kernels=[kernel], thread=2)
    cuda = {"device_type": torch.autograd.DeviceType.CUDA}
    on_card = [event("vectorized<silu>", 4, **cuda), event("nvjet_alone", 5, **cuda), event("in an MLP", 0, **cuda)]
    on_card[0].time_range = SimpleNamespace(start=4, elapsed_us=lambda: 3.0)
    found = list(gpu_profile.kernels([module, forward, engine, backward, *on_card], on_card=True))
    names = ["vectorized<silu>", "aten::silu_backward", engine.name, "aten::silu", "in an MLP"]
    assert found == [(names, 3.0), (["nvjet_alone"], 5.0)]
    assert [gpu_profile.kind_of(names) for names, _ in found] == ["activation", "matrix products"]


@pytest.mark.parametrize("kit", [LoraKit, LoraKitSmall])
def test_a_profile_tells_every_kind_of_work_and_leaves_no_hooks(
    setup: Setup, kit: type[LoraKit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_profile, "STEP", 128)
    work = kit(setup)
    told = gpu_profile.where_time_goes(work, gpu_train.rows_like("64", 384))
    assert told["t4_milliseconds"] is None and told["wall_milliseconds"] > 0
    absent = [kind for kind, spent in told["milliseconds"].items() if spent <= 0]
    assert absent == []
    assert told["milliseconds"]["residuals, all else"] < 0.35 * sum(told["milliseconds"].values())
    assert 0 < len(told["costliest"]) <= 25 and told["costliest"][0]["calls"] > 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in work.model.modules())


def test_the_projection_scales_arithmetic_and_memory_apart() -> None:
    spent = {"matrix products": 65.0, "optimizer": 320.0}
    assert gpu_profile.on_t4(spent, "Tesla T4") == spent
    assert gpu_profile.on_t4(spent, "NVIDIA H100 80GB HBM3") == {"matrix products": 989.0, "optimizer": 3350.0}
    assert gpu_profile.on_t4(spent, "NVIDIA A100-SXM4-80GB") == {"matrix products": 312.0, "optimizer": 2039.0}
    for card in ("NVIDIA L40S", "Some other card"):
        assert gpu_profile.on_t4(spent, card) is None


def options_for(base: Path, *more: str) -> SimpleNamespace:
    told = gpu.parser().parse_args([f"--base={base}", "--device=cpu", "--tokens=512", *more])
    return SimpleNamespace(**vars(told) | {"until": time.time() + 600})


def test_parts_are_in_the_order_of_their_value_and_each_stands_once() -> None:
    parts = gpu.order()
    assert len(parts) == len({*parts})
    kinds = [part.split(", ")[0] for part in parts]
    assert kinds[0] == "tests" and kinds[-1] == "notebooks" and kinds.index("plan") > kinds.index("profile")
    trained = [part for part in parts if part.startswith("train, ")]
    assert trained[:3] == [f"train, lora_kit, all linear, {case}" for case in ("handbook", "512", "2048")]
    assert all("all linear" in part for part in trained[:12]) and {part.split(", ")[1] for part in trained[:12]} == {
        *KITS
    }
    assert gpu.process_of("train, lora_kit-small, all linear, 512") == gpu.process_of("profile, all linear")
    assert gpu.process_of("train, trl, all linear, 512") != gpu.process_of("train, trl, q and v, 512")


def test_each_result_is_written_at_once_and_a_second_call_goes_on(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = ["train, lora_kit, all linear, 512", "longest, none, all linear", "train, lora_kit-small, all linear, 512"]
    options = options_for(setup.base, f"--out={tmp_path}", "--parts", *parts)
    gpu.measure(parts, options)  # type: ignore[arg-type]
    assert [gpu.is_done(tmp_path, part) for part in parts] == [True, False, True]
    assert gpu.path_of(tmp_path, parts[0]).name == "train_lora_kit_all_linear_512.json"  # plain: it travels
    written = json.loads(gpu.path_of(tmp_path, parts[0]).read_text())
    assert {"part", "gpu", "driver", "versions", "commit", "date", "seconds", "found"} == {*written}
    assert "KeyError" in json.loads(gpu.path_of(tmp_path, parts[1]).read_text())["failed"]
    asked: list[list[str]] = []
    monkeypatch.setattr(gpu, "in_a_process", lambda parts, options, left: asked.append(parts))
    gpu.run_all(options)  # type: ignore[arg-type]
    assert asked == [[parts[1]]]
    options.until = time.time() - 1
    assert gpu.measure(parts, options) == {}  # type: ignore[arg-type]


def test_one_part_is_printed_as_one_line_of_json_at_last(
    setup: Setup, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["gpu.py", "--device=cpu", f"--base={setup.base}", "--tokens=512", "--part=train", "--kit=lora_kit"]
    monkeypatch.setattr(sys, "argv", [*words, "--targets=q and v", "--lengths", "512"])
    gpu.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [*found] == [f"train, lora_kit, q and v, {case}" for case in ("handbook", "alpaca", "512")]


def test_what_a_card_measured_is_gathered_and_earlier_parts_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "RESULTS", tmp_path)
    for number, (part, card) in enumerate([("tests", "H200"), ("plan", "H200"), ("notebooks", "none")]):
        out = tmp_path / str(number % 2)
        out.mkdir(exist_ok=True)
        (out / f"{part}.json").write_text(json.dumps({"part": part, "gpu": card, "found": {}}))
    for number in (1, 0):
        gpu.gather(tmp_path / str(number))
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert [*record["parts"]] == ["tests", "plan"] and record["parts"]["plan"]["gpu"] == "H200"
    assert "notebooks" in record["not_run"] and "plan" not in record["not_run"]


def test_the_table_says_what_did_not_fit_or_run_and_that_it_was_no_t4() -> None:
    case = {"seconds_per_million": {"learned": 1234.5, "seen": 600.0}, "allocated_gib": 9.87}
    about = {
        "gpu": "Some card",
        "driver": "1.2",
        "date": "2026-11-25",
        "commit": "abc",
        "versions": {"torch": "2.13.0"},
    }
    off = {"least_off": 0.01, "most_off": 0.04, "seconds_said": 9.0, "seconds_taken": 10.0, "settings": [{}] * 12}
    found = {
        "tests": {"passed": 7},
        "train, lora_kit, q and v, 512": case,
        "train, lora_kit, q and v, 4096": case,
        "longest, lora_kit, q and v": 4096,
        "train, trl, q and v, 4096": None,
        "profile, q and v": {"milliseconds": {"loss": 2.0}, "t4_milliseconds": {"loss": 2000.0}},
        "plan": off,
    }
    parts = {part: about | {"found": one} for part, one in found.items()}
    parts["train, trainer, q and v, 512"] = about | {"failed": "ImportError"}
    told = update_readme.gpu({"cap_gib": 14.7, "parts": parts, "not_run": ["notebooks"]})
    assert "| lora_kit | 1,234 (9.9) | 1,234 (9.9) | 4096 |" in told
    assert "| trl | not run | does not fit | not run |" in told and "ImportError" not in told
    assert "NOT a T4" in told and "Some card, driver 1.2" in told and "Not run: notebooks" in told
    assert "12 settings: +1.0% to +4.0%; its seconds -10.0%" in told and "7 passed" in told
    assert "2.0 s for a step" in told
