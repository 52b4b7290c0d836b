"""How `init` chooses the metric and the command of a repository, and finds files that must not change."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agent.errors import NoMetric
from agent.init.choose import choose_metric
from agent.init.discover import candidate_named, candidates, header, scripts_of
from agent.init.numbers import in_output
from agent.init.surface import surface
from agent.proposers.search.space import tunable_parameters
from agent.protocol.extract import extract
from agent.protocol.load import load_protocol
from agent.protocol.models import Metric
from agent.session.context import known_constants
from agent.system.patterns import matches
from tests.common.in_process import call
from tests.common.sessions import rows
from tests.common.workspaces import Cli, git, repository

PRINTS = "print('score: 1')\n"


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "prose", "name", "direction"),
    [
        ("avg_score: 5\nbest_score: 9\nworst_score: 1\n", "", "avg_score", "maximize"),
        ("best_score: 9\nworst_score: 1\nscore: 5\n", "", "score", "maximize"),
        ("max_reward: 9\nmin_reward: 1\nmean_reward: 5\n", "", "mean_reward", "maximize"),
        ('{"score_max": 9, "score_min": 1, "score_mean": 3}', "", "score_mean", "maximize"),
        ("train_loss: 0.1\nval_loss: 0.3\ntest_loss: 0.4\n", "", "val_loss", "minimize"),
        ("train_acc: 0.9\nval_acc: 0.8\n", "", "val_acc", "maximize"),
        ("val_accuracy: 0.9\nval_f1_macro: 0.8\n", "", "val_accuracy", "maximize"),
        ("val_f1: 0.8\nval_acc: 0.9\n", "**Metric**: `val_acc`. Secondary: `val_f1`.", "val_acc", "maximize"),
        ("loss: 2\ngain: 3\n", "The goal: maximize `gain`.", "gain", "maximize"),
        ("loss: 2\nsharpe: 3\n", "**Metric**: `sharpe` (higher is better)", "sharpe", "maximize"),
        ("throughput: 5\np99_latency_ms: 9\n", "The metric is p99_latency_ms.", "p99_latency_ms", "minimize"),
        ("score: 5\n", "The metric is `score` (lower is better).", "score", "minimize"),
    ],
)
def test_init_chooses_metric_among_numbers(text: str, prose: str, name: str, direction: str) -> None:
    found = choose_metric(in_output(text), None, prose)
    assert found is not None
    assert (found.name, found.direction) == (name, direction)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "name", "direction"),
    [
        ("Speed: 5.1 ms/image\n", "speed", "minimize"),
        ("Speed: 0.2ms preprocess, 5.1ms inference\n", "speed", "minimize"),
        ("speed = 3.5 s/it\n", "speed", "minimize"),
        ("Throughput: 12.5 sec/epoch\n", "throughput", "minimize"),
        ("Speed (ms/image): 5.1\n", "speed", "minimize"),
        ("rate: 0.5 seconds per step\n", "rate", "minimize"),
        ("Speed: 5.1 it/s\n", "speed", "maximize"),
        ("speed: 5.1 m/s\n", "speed", "maximize"),
        ("time: 12.3 it/s\n", "time", "maximize"),
        ("Rate: 5.1 samples per second\n", "rate", "maximize"),
        ("Speed: 5.1 MB/s\n", "speed", "maximize"),
        ("Throughput: 900 steps of 3 s\n", "throughput", "maximize"),
        ("elapsed: 5.1 s\n", "elapsed", "minimize"),
        ("| reward | 3.5 ms |\n", "reward", "maximize"),
    ],
)
def test_unit_of_a_speed_decides_its_direction(text: str, name: str, direction: str) -> None:
    found = choose_metric(in_output(text), None, "")
    assert found is not None
    assert (found.name, found.direction) == (name, direction)


SB3 = """---------------------------------
| rollout/           |          |
|    ep_len_mean     | 120      |
|    ep_rew_mean     | {0}      |
| time/              |          |
|    fps             | 1843     |
|    total_timesteps | 10240    |
| train/             |          |
|    loss            | 12.3     |
---------------------------------
"""
LIGHTNING = """\u2503        Test metric        \u2503       DataLoader 0        \u2503
\u2502         test_acc          \u2502    0.9123456789012345     \u2502
\u2502         test_loss         \u2502    0.3123456789012345     \u2502
"""


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        (SB3.format(-52.1) + SB3.format(118), "ep_rew_mean", 118),
        ("update 1 | timesteps 2,048 | ep_rew_mean -31.08 | ep_len 60 | fps 990\n", "ep_rew_mean", -31.08),
        ("episode_reward=120.50 fps=990 loss=0.3\n", "episode_reward", 120.5),
        ("Average return: 233.1 Loss: 0.02\n", "average_return", 233.1),
        ("train_loss: 0.5\ntokens_per_second: 900\neval_samples_per_second: 12\neval_runtime: 3\n", "train_loss", 0.5),
        ("train_score: 0.5\nthroughput: 900\n", "train_score", 0.5),
        ("throughput: 900\nfailed: 2\nlatency: 3\nmemory_mb: 5\n", "throughput", 900),
        (LIGHTNING, "test_loss", 0.3123456789012345),
        ("| accuracy | 0.91 |\n| loss | 0.3 |\n", "loss", 0.3),
        ("|accuracy|0.91|\n|loss|0.3|\n", "loss", 0.3),
        ("Best CV score: 0.912\nTest score: 0.905\n", "best_cv_score", 0.912),
        ("Best CV accuracy: 0.91\nTest accuracy: 0.95\n", "best_cv_accuracy", 0.91),
        ("Cross-validation accuracy: 0.91\nTest accuracy: 0.95\n", "cross_validation_accuracy", 0.91),
        ("10-fold cross-validated RMSE = 3.5 (+/- 0.2)\nTest RMSE = 3.4\n", "cross_validated_rmse", 3.5),
        ("cv_score: 0.91\ntest_accuracy: 0.95\nloss: 0.1\n", "cv_score", 0.91),
        ("val_score: 0.91\ntest_loss: 0.95\n", "val_score", 0.91),
        ("OOF AUC: 0.91\nLoss: 0.3\nTest AUC: 0.95\n", "oof_auc", 0.91),
        ("Held-out accuracy: 0.91\nTrain accuracy: 0.95\nloss: 0.3\n", "held_out_accuracy", 0.91),
        ("val_seconds: 0.91\ntest_loss: 0.95\nloss: 0.1\n", "test_loss", 0.95),
        ("test_acc: 0.9\nstd dev error: 0.1\n", "test_acc", 0.9),
        ("test_acc: 0.9\ncv error: 3\n", "test_acc", 0.9),
        ("test_loss: 0.95\ntest_acc: 0.9\nval_acc: 0.88\n", "val_acc", 0.88),
        ("test_error: 0.95\nval_loss: 0.88\n", "val_loss", 0.88),
        ("test_f1: 0.95\ncv accuracy: 0.88\n", "cv_accuracy", 0.88),
        ("std loss: 0.1\naccuracy: 0.9\n", "accuracy", 0.9),
        ("Std of the accuracy: 0.02\nerror: 0.9\n", "error", 0.9),
        ("epoch 1 loss: 0.5 std loss: 0.1\nepoch 2 loss: 0.4 std loss: 0.1\n", "loss", 0.4),
        ("Standard error: 0.02\nelapsed: 0.9\n", "elapsed", 0.9),
        ("Mean/std accuracy: 0.91 0.02\n", "accuracy", 0.91),
        ("std 0.1 accuracy 0.9\n", "accuracy", 0.9),
        ("standard accuracy: 0.9\n", "accuracy", 0.9),
        ("Fold 1 accuracy: 0.9\nFold 5 accuracy: 0.95\nMean accuracy: 0.915 ± 0.005\n", "mean_accuracy", 0.915),
        ("[fold 5/5] val_auc: 0.95\nCV auc: 0.915\n", "cv_auc", 0.915),
        ("fold=5 | val_auc: 0.95\nOverall AUC = 0.915\n", "val_auc", 0.95),
        ("accuracy: 0.95\naverage accuracy: 0.915\n", "average_accuracy", 0.915),
        ("[LightGBM] [Info] Start training from score -0.105361\nseconds: 3\n", "seconds", 3),
    ],
)
def test_quality_is_chosen_before_a_speed_and_validation_before_test(text: str, name: str, value: float) -> None:
    found = choose_metric(in_output(text), None, "")
    assert found is not None
    assert (found.name, found.value) == (name, value)
    assert extract(Metric.model_validate(found.metric), text) == value


@pytest.mark.quick
@pytest.mark.parametrize(("name", "direction"), [("val_loss", "minimize"), ("val/acc", "maximize"), ("zeta", None)])
def test_best_score_has_the_direction_of_the_metric_that_improved(name: str, direction: str | None) -> None:
    found = in_output(f"Metric {name} improved by 0.1 >= min_delta = 0.0. New best score: 0.354\n")
    assert [each.direction for each in found if each.name == "best_score"] == [direction]


@pytest.mark.quick
@pytest.mark.parametrize(
    "setting",
    [
        "return_code: 0",
        "return code: 0",
        "reward_scale: 3.0",
        "reward_weight = 2",
        "reward_clip: 5",
        "target_return: 200",
        "reward_threshold: 195",
        "rew coef: 0.5",
        "loss_scale: 65536",
        "reward_bonus: 3",
    ],
)
def test_setting_of_rewards_is_not_chosen_before_a_loss(setting: str) -> None:
    found = choose_metric(in_output(f"{setting}\nloss: 0.5\n"), None, "")
    assert found is not None
    assert found.name == "loss"
    for name in ("reward", "return", "mean_reward_100", "ep_rew_mean", "episode_return", "total_reward"):
        found = choose_metric(in_output(f"{setting}\nloss: 0.5\n{name}: 7\n"), None, "")
        assert found is not None
        assert (found.name, found.value) == (name, 7)


@pytest.mark.quick
@pytest.mark.parametrize("text", ["step 1 | gain -31.08 | fps 990\n", "| mean_gain | 3 |\n| fps | 990 |\n"])
def test_named_number_needs_no_colon(text: str) -> None:
    found = choose_metric(in_output(text, "gain"), "gain", "")
    assert found is not None
    assert found.name in ("gain", "mean_gain")
    assert choose_metric(in_output(text), "gain", "") is None


@pytest.mark.quick
@pytest.mark.parametrize(
    "line",
    [
        "Lowest validation loss in epoch: 29",
        "Best validation accuracy at epoch: 17",
        "Reward for seed: 42",
        "Stopped after reward of 3 in episode: 120",
        "Accuracy at threshold: 0.5",
        "mean precision at k: 5",
        "saved best score to disk for step = 40",
        "Validation loss for batch size: 32",
        "Validation accuracy with lr: 0.1",
        "Best score of 5 runs in fold: 3",
    ],
)
def test_counter_or_setting_is_not_what_stands_before_it(line: str) -> None:
    found = choose_metric(in_output(f"train_loss: 0.5\n{line}\n"), None, "")
    assert found is not None
    assert (found.name, found.value) == ("train_loss", 0.5)
    assert choose_metric(in_output(f"{line}\n"), None, "") is None


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("train loss: 0.1\nAccuracy on test set: 0.91\n", "test_accuracy", 0.91),
        ("loss: 0.1\nAccuracy of the network on the 10000 test images: 54 %\n", "test_accuracy", 54),
        ("train_loss: 0.1\nTest accuracy after 3 epochs: 91.2%\n", "test_accuracy", 91.2),
        ("train_loss: 0.1\nRMSE on test set: 3.2\n", "test_rmse", 3.2),
        ("RMSE on validation data = 3.2, on the test set = 3.3\n", "validation_rmse", 3.2),
        ("fps: 900\nMean reward over last 10 episodes: -52.5\n", "mean_reward", -52.5),
        ("INFO: Number of errors on the dev set: 12\n", "dev_errors", 12),
        ("epoch 1, F1 for val (macro): 0.8\nepoch 2, F1 for val (macro): 0.9\n", "val_f1", 0.9),
        ("Accuracy on training set: 0.99\nAccuracy on held-out data: 0.9\n", "accuracy", 0.9),
        ("Test set: Accuracy of the network: 0.9\n", "test_accuracy", 0.9),
        ("accuracy: 0.8\nAccuracy of cats: 0.7\nAccuracy of dogs: 0.9\n", "accuracy", 0.8),
        ("Loss after step 100: 0.5\nLoss after step 200: 0.4\n", "loss", 0.4),
        ("Accuracy at epoch 9 = 0.8\nAccuracy at epoch 10 = 0.9\n", "accuracy", 0.9),
    ],
)
def test_name_may_stand_before_what_the_number_is_of(text: str, name: str, value: float) -> None:
    found = choose_metric(in_output(text), None, "")
    assert found is not None
    assert (found.name, found.value) == (name, value)
    rule = Metric.model_validate(found.metric)
    later = text.replace("10000", "9,000").replace("3 epochs", "12 epochs").replace("step 200", "step 300")
    assert extract(rule, later.replace(f" {value:g}", " 7.25")) == 7.25
    with pytest.raises(NoMetric):
        extract(rule, later.replace(f" {value:g}", " nan"))


TIMM = "{}: [  10/10]  Time: 0.123 (0.150)  Loss:  {} ({})  Acc@1: 70.1 (71.2)  Acc@5: 90.0 (90.5)\n"


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        (TIMM.format("Train", 0.5, 0.6) + TIMM.format("Test", 0.9, 1.1), "test_loss", 1.1),
        (TIMM.format("Epoch", 0.9, 1.1), "loss", 1.1),
        ("Epoch: [0][10/10]\tTime  0.1 ( 0.15)\tLoss 6.9e+00 (7.0e+00)\n", "loss", 7.0),
        ("Test: [10/10] loss 1,234.5 (1,300.5) acc 0.5 (0.25)\n", "test_loss", 1300.5),
        (
            "INFO Train: 0 [ 100/1251 (  8%)]  Loss: 6.94 (6.95)  Time: 0.393s, 2603.42/s  (0.443s)\n",
            "train_loss",
            6.95,
        ),
        ("[5/5] accuracy: 0.91 (0.02)\n", "accuracy", 0.91),
        ("[5/5] accuracy: 0.91 (0.02) f1: 0.87 (0.03)\n", "accuracy", 0.91),
        ("[12/12] loss: 0.31 (1.25e-3)\n", "loss", 0.31),
        ("Epoch [5/10], val_loss: 0.52 (0.50)\n", "val_loss", 0.52),
        ("Iter [100/100] loss: 0.31 (0.45)  acc: 91.1 (88.0)\n", "loss", 0.45),
        ("CV accuracy: 0.91 (+/- 0.02)\n", "cv_accuracy", 0.91),
        ("Accuracy: 0.91 (0.02)\n", "accuracy", 0.91),
        ("[2024/01/02 10:00] accuracy: 0.91 (0.02)\n[01/02 10:01] accuracy: 0.92 (0.02)\n", "accuracy", 0.92),
        ("[640/60000 (1%)]\tLoss: 0.24\n", "loss", 0.24),
        ("[1/3] accuracy: 0.9 (best 0.95)\n", "accuracy", 0.9),
    ],
)
def test_average_of_a_meter_is_read_and_no_deviation(text: str, name: str, value: float) -> None:
    found = choose_metric(in_output(text), None, "")
    assert found is not None
    assert (found.name, found.value) == (name, value)
    rule = Metric.model_validate(found.metric)
    assert extract(rule, text) == value
    with pytest.raises(NoMetric):
        extract(rule, text + re.sub(r"[\d.,]{3,}(e\+00)?", "nan", text))


MNIST = """Train Epoch: {0} [0/60000 (0%)]\tLoss: 0.{1}5
Train Epoch: {0} [640/60000 (1%)]\tLoss: 0.{1}4

Test set: Average loss: 0.0{1}74, Accuracy: 98{1}0/10000 (98%)

"""


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        (MNIST.format(1, 5) + MNIST.format(2, 2), "test_average_loss", 0.0274),
        (MNIST.format(2, 2) + "Train Epoch: 3 [0/60000 (0%)]\tLoss: 0.01\n", "test_average_loss", 0.0274),
        ("Val: loss 0.30 acc 0.82  Train: loss 0.20 acc 0.92\n", "val_loss", 0.30),
        ("Train: loss 0.20 acc 0.92  Val: loss 0.30 acc 0.82\n", "val_loss", 0.30),
        ("[val] loss: 0.9 acc: 0.8\n[train] loss: 0.1 acc: 0.9\n[train] saved, loss: 0.01\n", "val_loss", 0.9),
        ("epoch 1 | train | loss 0.2 | val | acc 0.8\n", "loss", 0.2),
        ("[train] loss: 0.1 val_loss: 0.3 acc: 0.8\n", "val_loss", 0.3),
        ("train loss 0.2 test loss 0.4 took 12 s\n", "test_loss", 0.4),
        ("python train.py loss: 0.2\n", "loss", 0.2),
        ("Epoch 3 [val] loss: 0.4\nEpoch 3 [train] loss: 0.1\n", "val_loss", 0.4),
        ("loss 0.5 (train), loss 0.6 (test)\n", "loss", 0.6),
        ("Accuracy 0.9 on train, accuracy 0.8 on test\n", "accuracy", 0.8),
        ("Training took 5.2 s, accuracy: 0.93\nTotal time: 7.5 s\n", "accuracy", 0.93),
        ("Finished training. Accuracy: 0.93\nTotal time: 7.5 s\n", "accuracy", 0.93),
        ("eval every 100 steps, loss 0.4\n", "loss", 0.4),
        ("{'loss': 0.2, 'epoch': 1.0}\n{'eval_loss': 0.5, 'eval_runtime': 1.2}\n{'loss': 0.1}\n", "eval_loss", 0.5),
    ],
)
def test_held_out_number_is_chosen_wherever_its_split_stands(text: str, name: str, value: float) -> None:
    found = choose_metric(in_output(text), None, "")
    assert found is not None
    assert (found.name, found.value) == (name, value)
    # The written rule finds the number of a later run, whose numbers differ.
    later = text.replace(f"{value:.2f}", "7.25").replace(str(value), "7.25")
    rule = {"name": name, "direction": "minimize", "extract": found.extract}
    assert extract(Metric.model_validate(rule), later) == 7.25


SIGNED = (
    ("Epoch 1/5 - loss: 0.9 - val_loss: {} - 12ms/step", "val_loss"),
    ("{{'eval_loss': {}, 'eval_runtime': 0.51}}", "eval_loss"),
    ("val_loss: {}", "val_loss"),
    ("[val] loss: {} acc: 0.8", "val_loss"),
    ("epoch 1 | val | loss = {}|", "loss"),
)
NO_NUMBERS = ("nan", "-inf", "Infinity", "None", "null", "N/A", "tensor(nan)", "0x1p3")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("line", "name", "end"),
    [
        *(("epoch 1: train_loss 0.9 val_loss {}", "val_loss", end) for end in NO_NUMBERS),
        *((line, name, end) for line, name in SIGNED for end in (*NO_NUMBERS, "--", "diverged", "")),
    ],
)
def test_rule_of_init_refuses_whatever_stands_at_the_last_place(line: str, name: str, end: str) -> None:
    found = choose_metric(in_output("".join(f"{line.format(number)}\n" for number in (0.5, 0.4, 0.3))), name, "")
    assert found is not None
    assert (found.name, found.value) == (name, 0.3)
    with pytest.raises(NoMetric, match=r"metric is|no line|different values"):
        extract(Metric.model_validate({**found.metric, "name": "metric"}), f"{line.format(0.2)}\n{line.format(end)}\n")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "later", "value"),
    [
        ("Validation loss {}\n", "Validation loss decreased (inf --> 0.25).  Saving model ...\n", 0.25),
        ("Epoch 1 train loss 0.9 val loss {}\n", "Stopping early: val loss did not improve\n", 0.25),
        ("epoch val loss {}\n", "val loss plateaued, reducing lr\n", 0.25),
        ("mean reward {}\n", "mean reward threshold reached, stopping\n", 19),
        ("accuracy {}\n", "accuracy improved\n", 0.93),
        ("latency {} ms\n", "latency target met\n", 2.8),
        ("val_loss: {}\n", "val_loss: computing\n", 0.25),
        ("epoch val_loss: {}\n", "Early stopping on val_loss: no improvement\n", 0.25),
    ],
)
@pytest.mark.parametrize("times", [1, 2])
def test_sentence_that_only_some_runs_print_is_no_value(text: str, later: str, value: float, times: int) -> None:
    trial = "".join(text.format(number) for number in (0.5, 0.75)[:times])
    found = choose_metric(in_output(trial), None, "")
    assert found is not None
    rule = Metric.model_validate(found.metric)
    before = "".join(text.format(number) for number in (0.4,) * (times - 1))
    assert extract(rule, f"{before}{later}{text.format(value)}") == value
    if ":" not in later[:10]:
        assert extract(rule, f"{before}{text.format(value)}{later}") == value
    with pytest.raises(NoMetric):
        extract(rule, f"{before}{text.format(value)}{later}{text.format('nan')}")


@pytest.mark.quick
def test_placeholder_of_a_summary_is_no_value() -> None:
    (found,) = in_output("training...\nval_loss: 0.5\n")
    rule = Metric.model_validate(found.metric)
    for placeholder in ("computing", "-", "", "..."):
        assert extract(rule, f"val_loss: {placeholder}\nval_loss: 0.4 \n") == 0.4
        assert extract(rule, f"val_loss: 0.4\nval_loss: {placeholder}\n") == 0.4
    for wrong in ("0.4 (best)", "nan", "0.4\nval_loss: 0.5", "0.4\nval_loss: nan", "diverged"):
        with pytest.raises(NoMetric):
            extract(rule, f"val_loss: {wrong}\n")


@pytest.mark.quick
def test_rule_of_init_is_not_stopped_by_a_sentence() -> None:
    text = "loss 0.5\nloss 0.3\nloss is low\n"
    found = choose_metric(in_output(text), None, "")
    assert found is not None
    assert found.value == 0.3
    with pytest.raises(NoMetric, match="loss is nan"):
        extract(Metric.model_validate(found.metric), "loss 0.5\nloss nan\nloss is high\n")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("train_loss=4.5\nFinal validation perplexity: 1,272.75\n", "final_validation_perplexity", 1272.75),
        ("valid_ppl: 800.0\nvalid_ppl: 1,548.5\n", "valid_ppl", 1548.5),
        ("valid_ppl: 1,548.5\nvalid_ppl: 800.0\n", "valid_ppl", 800.0),
        ("rmse = 1,234,567 USD\n", "rmse", 1234567),
        ("loss 1,234.5, acc 0.5\n", "loss", 1234.5),
        ("loss: 1,2345\nerror: 0.5\n", "error", 0.5),
        ("loss: 1,234,56\nerror: 0.5\n", "error", 0.5),
    ],
)
def test_thousands_are_read(text: str, name: str, value: float) -> None:
    found = choose_metric(in_output(text), None, "")
    assert found is not None
    assert (found.name, found.value) == (name, value)
    metric = Metric.model_validate(found.metric)
    assert extract(metric, text) == value
    assert extract(metric, text.replace(f"{value:,}", "8,765")) == 8765


@pytest.mark.quick
@pytest.mark.parametrize("line", ["x" * 1999, "x1" * 999, f"loss {'1' * 1980}x5", "train " * 333, "a " * 999])
def test_long_lines_are_read_in_linear_time(line: str) -> None:
    began = time.process_time()
    in_output(f"{line}\n" * 100)
    assert time.process_time() - began < 10


@pytest.mark.quick
def test_name_without_a_rule_is_given_up_soon() -> None:
    text = "".join(f"{step}: a loss: {step}.5, loss: 1,2345\n" for step in range(1500))
    began = time.process_time()
    assert in_output(text) == []
    assert time.process_time() - began < 0.5


@pytest.mark.quick
@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("run_loop.py", PRINTS),
        ("agent.py", PRINTS),
        ("autoresearch.py", PRINTS),
        ("autonomous_loop.py", PRINTS),
        ("tools/research_agent.py", PRINTS),
        ("orchestrator.py", PRINTS),
        ("experiment.py", f"import subprocess\nsubprocess.run(['git', 'reset', '--hard'])\n{PRINTS}"),
        ("train.py", f"import subprocess\nsubprocess.run(['git', 'commit', '-am', 'better'])\n{PRINTS}"),
        ("run.py", f"import anthropic\n{PRINTS}"),
        ("main.py", f'"""The research loop: keeps or reverts."""\n{PRINTS}'),
    ],
)
def test_loop_of_repository_is_not_chosen_as_command(path: str, source: str) -> None:
    files = {path: source, "README.md": f"Run it:\n\n```\npython {path}\n```\n"}
    assert candidates(files, "python") == []


@pytest.mark.quick
@pytest.mark.parametrize("path", ["train_loop.py", "train_agent.py", "bench_loop.py"])
def test_training_loop_is_chosen_as_command(path: str) -> None:
    (found,) = candidates({path: f"import git\nhash = git.Repo().head\n{PRINTS}"}, "python")
    assert found.script == path


@pytest.mark.quick
def test_command_of_readme_precedes_other_scripts() -> None:
    readme = "Start it:\n\n```bash\n$ python go.py --fast > run.log 2>&1\npython go.py --fast 2>&1 | tee log\n```\n"
    files = {"go.py": PRINTS, "eval.py": PRINTS, "train.py": PRINTS, "README.md": readme}
    assert candidates(files, "python")[0].command == "python go.py --fast"
    program = {"go.py": PRINTS, "eval.py": PRINTS, "program.md": "Run `python go.py`.\n"}
    assert candidates(program, "python")[0].command == "python go.py"


@pytest.mark.quick
def test_module_without_entry_point_comes_last() -> None:
    files = {
        "train.py": '"""Training."""\nimport time\n\nRATE = 0.1\n\n\ndef train():\n    print("loss: 1")\n',
        "run.py": PRINTS,
    }
    assert [each.command for each in candidates(files, "python")] == ["python run.py", "python train.py"]


@pytest.mark.quick
def test_the_header_ends_with_the_first_line_of_code() -> None:
    assert header('#!/usr/bin/env python\n"""One.\n\nTwo."""\nx = 1\n# not this\n').endswith('Two."""')
    assert header("/* One.\n   Two. */\nint x; // not this\n") == "/* One.\nTwo. */"
    assert header("x = 1\n") == ""


MODEL = "import prepare_it, model, util\nprint('loss: 1')\n"


@pytest.mark.quick
@pytest.mark.parametrize(
    ("files", "mutable"),
    [
        ({"util.py": '"""Helpers. DO NOT MODIFY."""\n'}, ["model.py", "train.py"]),
        ({"util.py": "# Frozen: the baseline that we compare with.\n"}, ["model.py", "train.py"]),
        ({"util.py": "# This file must not be changed.\n"}, ["model.py", "train.py"]),
        ({"util.py": '"""The oracles that the benchmark checks against."""\n'}, ["model.py", "train.py"]),
        ({"util.py": '"""Checked against the reference implementation."""\n'}, ["model.py", "train.py", "util.py"]),
        ({"util.py": "x = 1\n# DO NOT MODIFY\n"}, ["model.py", "train.py", "util.py"]),
        ({"util.py": "# Do not edit below this line.\n"}, ["model.py", "train.py", "util.py"]),
        ({"model.py": '"""Edit freely. Do not modify util.py."""\n'}, ["model.py", "train.py"]),
        ({"README.md": "- `util.py`: helpers. DO NOT MODIFY.\n- `model.py`: yours.\n"}, ["model.py", "train.py"]),
        ({"util.py": '"""Checks model.py against a table. The loop never edits it."""\n'}, ["model.py", "train.py"]),
        ({"README.md": "- `util.py`: what `model.py` imports, do not modify.\n"}, ["model.py", "train.py"]),
        ({"README.md": "* util.py, prepare_it.py: for train.py. Read-only.\n"}, ["model.py", "train.py"]),
        ({"README.md": "Edit `model.py`, never change `util.py`.\n"}, ["model.py", "train.py"]),
        ({"README.md": "`train.py` and `util.py` must not be changed.\n"}, ["model.py"]),
        ({"README.md": "| `model.py` | the agent |\n| `util.py` | read-only |\n"}, ["model.py", "train.py"]),
        ({"README.md": "The agent edits `model.py` and runs `python train.py`.\n"}, ["model.py"]),
        ({"README.md": "The agent may only modify `model.py`. Everything else is frozen.\n"}, ["model.py"]),
        ({"README.md": "Do not touch any file other than `model.py`.\n"}, ["model.py"]),
        ({"program.md": "`model.py` is the only file you edit.\n"}, ["model.py"]),
        ({"README.md": "You may edit a config. See `model.py`.\n"}, ["model.py", "train.py", "util.py"]),
    ],
)
def test_files_marked_do_not_modify_are_harness(files: dict[str, str], mutable: list[str]) -> None:
    whole = {"train.py": MODEL, "model.py": "RATE = 1\n", "util.py": "x = 1\n", "prepare_it.py": "", **files}
    found = surface(candidate_named("python train.py", whole), whole, [], False)
    assert [*found.mutable] == mutable
    assert {*found.harness} >= {"train.py", "util.py", "model.py"} - {*mutable}
    assert "prepare_it.py" in found.harness


@pytest.mark.quick
@pytest.mark.parametrize("name", ["reference.py", "ref.py", "oracle.py", "verify.py", "reference/impl.py", "golden.py"])
def test_reference_implementations_are_harness_by_name(name: str) -> None:
    module = name.removesuffix(".py").replace("/", ".")
    files = {"kernel.py": "UNROLL = 1\n", name: "x = 1\n", "bench.py": f"import kernel\nimport {module}\n{PRINTS}"}
    found = surface(candidate_named("python bench.py", files), files, [], False)
    assert found.mutable == ("kernel.py",)
    assert {*found.harness} == {"bench.py", name}


def test_a_flag_wins_over_what_a_file_asks(tmp_path: Path) -> None:
    files = {"train.py": '"""Do not modify."""\nprint("loss: 1")\n'}
    folder = repository(tmp_path / "one", files)
    refused = call(folder, "init", "--no-run", "--command", "python train.py")
    assert refused.returncode == 3
    assert "--mutable" in refused.stderr
    assert call(folder, "init", "--no-run", "--command", "python train.py", "--mutable", "train.py").returncode == 0
    assert load_protocol(folder).mutable_surface.allowed_globs == ["train.py"]


def test_the_next_command_is_tried_where_one_prints_nothing(tmp_path: Path, cli: Cli) -> None:
    files = {
        "train.py": "RATE = 0.1\n\n\ndef train():\n    return RATE\n\n\nif __name__ == '__main__':\n    train()\n",
        "run.py": "import train\nprint(f'val_accuracy : {train.train():.4f}')\n",
    }
    folder = repository(tmp_path / "runner", files)
    done = cli(folder, "init")
    assert done.returncode == 0, done.stderr
    assert "`python train.py` printed no usable metric" in done.stderr, done.stderr
    assert load_protocol(folder).execution.command == "python run.py"
    silent = repository(
        tmp_path / "silent", {"train.py": "import os\nos.getpid()\n", "run.py": "import os\nos.getpid()\n"}
    )
    done = cli(silent, "init")
    assert done.returncode == 1
    failure, hint = done.stderr.splitlines()[-2:]
    assert failure.startswith("error: `python train.py` ran")
    assert hint.startswith("hint: print a line such as")


def test_init_names_the_numbers_that_the_user_may_name(tmp_path: Path, cli: Cli) -> None:
    files = {"train.py": "print('loss: 1.5')\nprint('gap: 2')\n", "bench.py": "print('gain: 3')\n"}
    folder = repository(tmp_path / "two", files)
    done = cli(folder, "init", "--metric", "unheard")
    assert done.returncode == 1
    assert " called unheard (numbers found: loss, gap), nor did `python bench.py` (gain)\n" in done.stderr
    done = cli(folder, "init", "--metric", "gain")
    assert "error: the direction of the metric gain is unknown\nhint: add --direction minimize or" in done.stderr
    done = cli(folder, "init")
    assert done.returncode == 0, done.stderr
    assert "note          also printed: gap; name one with --metric\n" in done.stdout


def test_other_commands_are_named_where_the_first_fails(tmp_path: Path, cli: Cli) -> None:
    files = {"train.py": "print('loss: 1.5')\nraise ValueError('no data')\n", "bench.py": "print('seconds: 2.5')\n"}
    done = cli(repository(tmp_path / "two", files), "init")
    assert done.returncode == 1
    assert "or name another one with --command; also found: python bench.py\n" in done.stderr


def test_init_names_what_else_it_found_and_who_can_propose(tmp_path: Path, cli: Cli) -> None:
    files = {"train.py": "print('loss: 1.5')\n", "bench.py": "print('seconds: 2.5')\n"}
    done = cli(repository(tmp_path / "two", files), "init")
    assert done.returncode == 0, done.stderr
    assert "note          also found: python bench.py; name one with --command" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("run --tag first --max-experiments 3 --agent claude")
    done = cli(repository(tmp_path / "notebook", {"train.ipynb": "{}"}), "init")
    assert done.returncode == 3
    assert "`jupyter nbconvert --to script " in done.stderr


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        (
            {"README.md": "```\nnpm install\nnpm test\nnpm run bench\n```\n"},
            "name the command with --command, such as --command 'npm run bench' of the README\n",
        ),
        (
            {"README.md": "Run `cargo run --release` or `cargo bench`.\n\n    cargo build\n"},
            "name the command with --command, such as --command 'cargo bench' of the README\n",
        ),
        (
            {"README.md": "    go get ./...\n    go test -bench . > out.txt\n"},
            "name the command with --command, such as --command 'go test -bench .' of the README\n",
        ),
        ({"README.md": "go fast with it\nnode 20 is needed\n"}, "name the command with --command 'python SCRIPT'\n"),
        (
            {"fit.ipynb": "{}", "fit.py": "rmse = 1\nshow(rmse)\n"},
            "name the command with --command 'python fit.py'\n",
        ),
    ],
)
def test_hint_has_the_command_of_a_readme_or_the_script_of_a_notebook(
    tmp_path: Path, files: dict[str, str], hint: str
) -> None:
    done = call(repository(tmp_path / "repo", files), "init")
    assert done.returncode == 3
    assert f"hint: {hint}" in done.stderr.replace("python3", "python")


def test_tests_that_fail_leave_neither_their_own_command_nor_places_in_notes(tmp_path: Path, cli: Cli) -> None:
    tests = "from lib import f\ndef test_a():\n    assert f(1) > 2\ndef test_b():\n    assert f(1) == 2\n"
    files = {"lib.py": "def f(x):\n    return x * 2 + 0.1\n", "tests/test_lib.py": tests, "conftest.py": ""}
    done = cli(repository(tmp_path / "repo", files), "init", "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)["data"]
    assert data["protocol"]["execution"]["command"].endswith("|| [ $? -eq 1 ]")
    assert not [note for note in data["notes"] if note.startswith("also ")]


def test_metric_of_training_that_is_no_quality_is_remarked_on(tmp_path: Path, cli: Cli) -> None:
    files = {"train.py": "print('step 1 | gain 3.5 | fps 990')\n", "bench.py": "print('fps 990')\n"}
    folder = repository(tmp_path / "two", files)
    done = cli(folder, "init")
    assert done.returncode == 0, done.stderr
    assert "note          no loss or score was recognized, so the metric is fps: print one, such as" in done.stdout
    done = cli(folder, "init", "--force", "--metric", "fps")
    assert "no loss or score" not in done.stdout
    done = cli(folder, "init", "--force", "--metric", "gain", "--direction", "maximize")
    assert "metric        gain = 3.5" in done.stdout, done.stderr
    done = cli(folder, "init", "--force", "--command", "python bench.py", "--mutable", "bench.py")
    assert done.returncode == 0, done.stderr
    assert "no loss or score" not in done.stdout


LOSS = "print(f'val_loss: {(RATE - 0.3) ** 2 + 1 / LENGTH:.4f}')\n"


@pytest.mark.parametrize(
    ("constants", "stop", "searched"),
    [
        ("EPOCHS = 4\n", {"type": "epochs", "epochs": 4}, {"RATE"}),
        ("N_UPDATES = 200\n", {"type": "max_steps", "maxSteps": 200}, {"RATE"}),
        ("NUM_TRAIN_EPOCHS = 3\nWIDTH = 3\n", {"type": "epochs", "epochs": 3}, {"RATE", "WIDTH"}),
        ("STEPS = 200\nWIDTH = 200\n", {"type": "max_steps"}, {"RATE", "WIDTH"}),
        ("MAX_ITER = 4\nWARMUP_STEPS = 3\n", None, {"RATE", "MAX_ITER", "WARMUP_STEPS"}),
        *((f"{name} = 16\n", None, {"RATE", name}) for name in ("N_STEPS", "MAX_STEPS", "NUM_STEPS", "MAX_ITERS")),
        ("TOTAL_STEPS = 200\n", {"type": "max_steps", "maxSteps": 200}, {"RATE"}),
        ("MAX_TRAIN_STEPS = 200\n", {"type": "max_steps", "maxSteps": 200}, {"RATE"}),
        ("EPOCHS = 4\nMAX_STEPS = 50\n", None, {"RATE", "EPOCHS", "MAX_STEPS"}),
        ("EPOCHS = 4  # search: 1..8\n", None, {"RATE", "EPOCHS"}),
        ("EPOCHS = 4  # search: off\n", None, {"RATE"}),
        ("EPOCHS = 4\nTIME_BUDGET = 5\n", {"type": "wall_clock", "trainingSecondsBudget": 5}, {"RATE", "EPOCHS"}),
    ],
)
def test_length_of_training_is_not_searched(
    tmp_path: Path, cli: Cli, constants: str, stop: dict[str, Any] | None, searched: set[str]
) -> None:
    name = constants.split()[0]
    folder = repository(tmp_path, {"train.py": f"RATE = 0.1\n{constants}{LOSS.replace('LENGTH', name)}"})
    done = cli(folder, "init", "--command", f"{sys.executable} train.py")
    assert done.returncode == 0, done.stderr
    protocol = load_protocol(folder)
    assert json.loads((folder / "protocol.json").read_text())["execution"].get("stopCondition") == stop
    assert {*tunable_parameters({"train.py": (folder / "train.py").read_text()}, known_constants(protocol))} == searched
    lengths = (searched - {"RATE", "WIDTH", "WARMUP_STEPS"}) if stop is None and "1..8" not in constants else set()
    assert (", so if that is how long training runs" in done.stdout) == bool(lengths)
    assert all(each in done.stdout.partition("search changes ")[2].partition(":")[0] for each in lengths)
    if stop is not None and stop["type"] != "wall_clock":
        assert f"training      {constants.splitlines()[0]}  (not searched, because longer" in done.stdout


@pytest.mark.parametrize("name", ["EPOCHS", "N_STEPS"])
def test_only_constant_of_a_repository_is_searched(tmp_path: Path, cli: Cli, name: str) -> None:
    folder = repository(tmp_path, {"train.py": f"{name} = 16\nprint(f'val_loss: {{1 / {name}:.4f}}')\n"})
    done = cli(folder, "init", "--command", f"{sys.executable} train.py")
    assert done.returncode == 0, done.stderr
    assert f"search changes {name}: longer training is not a better recipe" in done.stdout
    git(folder, "add", "protocol.json")
    git(folder, "commit", "--quiet", "-m", "protocol")
    ran = cli(folder, "run", "--tag", "t", "--max-experiments", "2")
    assert ran.returncode == 0, ran.stderr
    assert len(rows(folder)) == 3


def test_session_with_a_length_of_training_runs(tmp_path: Path, cli: Cli) -> None:
    folder = repository(tmp_path, {"train.py": f"RATE = 0.1\nEPOCHS = 4\n{LOSS.replace('LENGTH', 'EPOCHS')}"})
    assert cli(folder, "init", "--command", f"{sys.executable} train.py").returncode == 0
    git(folder, "add", "protocol.json")
    git(folder, "commit", "--quiet", "-m", "protocol")
    ran = cli(folder, "run", "--tag", "t", "--max-experiments", "3")
    assert ran.returncode == 0, ran.stderr
    assert {row["status"] for row in rows(folder)} <= {"keep", "discard"}
    assert "EPOCHS" not in "".join(row["description"] for row in rows(folder))


def test_command_that_runs_in_its_own_folder_only_is_named_with_that_folder(tmp_path: Path, cli: Cli) -> None:
    train = "RATE = 0.1\nprint(f'loss: {len(open(\"../../data/x.csv\").read()) + (RATE - 0.3) ** 2}')\n"
    files = {"models/my churn/train.py": train, "data/x.csv": "a,b\n"}
    folder = repository(tmp_path, files)
    done = cli(folder, "init")
    assert done.returncode == 1
    assert "FileNotFoundError" in done.stderr
    hint = done.stderr.splitlines()[-1]
    assert hint.startswith("hint: if train.py works only in its own folder, run `"), hint
    command = shlex.split(hint.partition("`")[2].partition("`")[0])
    assert command[-2:] == ["models/my churn", "init"]
    assert cli(folder, *command[-3:]).returncode == 0
    assert (folder / "models/my churn/protocol.json").exists()
    broken = repository(tmp_path / "broken", {"models/train.py": "RATE = 0.1\nprint('loss: 1')\nraise ValueError\n"})
    assert "own folder" not in cli(broken, "init").stderr


def with_submodule(folder: Path) -> Path:
    """A repository whose training imports from a submodule."""
    helper = repository(folder / "helper", {"helper.py": "K = 2\n"})
    top = repository(
        folder / "top",
        {
            "train.py": "import sys\nsys.path.insert(0, 'lib')\nimport helper\n\nRATE = 0.1\n"
            "print(f'loss: {helper.K + (RATE - 0.3) ** 2:.4f}')\n"
        },
    )
    git(top, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(helper), "lib")
    git(top, "commit", "--quiet", "-m", "lib")
    return top


def test_copies_have_the_submodules(tmp_path: Path, cli: Cli) -> None:
    top = with_submodule(tmp_path)
    done = cli(top, "init", "--command", f"{sys.executable} train.py")
    assert done.returncode == 0, done.stderr
    git(top, "add", "protocol.json")
    git(top, "commit", "--quiet", "-m", "protocol")
    ran = cli(top, "run", "--tag", "t", "--max-experiments", "2")
    assert ran.returncode == 0, ran.stderr
    assert {row["status"] for row in rows(top)} <= {"keep", "discard"}, ran.stderr
    assert (top / "lib" / "helper.py").exists()
    assert git(top, "status", "--porcelain") == ""


def test_a_submodule_that_is_not_checked_out_is_named(tmp_path: Path, cli: Cli) -> None:
    top = with_submodule(tmp_path)
    git(top, "submodule", "--quiet", "deinit", "--force", "lib")
    done = cli(top, "init", "--command", f"{sys.executable} train.py")
    assert done.returncode == 1
    assert "hint: the submodule lib is not checked out" in done.stderr
    assert "`git submodule update --init --recursive`" in done.stderr


@pytest.mark.parametrize("where", ["inside", "above", "elsewhere"])
def test_remedies_work_where_they_are_offered(tmp_path: Path, cli: Cli, where: str) -> None:
    name = "sub dir"
    train = "open('a table.tsv', 'a').write('x\\n')\nRATE = 0.1\nprint(f'loss: {RATE}')\n"
    top = repository(tmp_path / "top", {f"{name}/train.py": train, f"{name}/a table.tsv": "a\n"})
    here = {"inside": top / name, "above": top, "elsewhere": tmp_path}[where]
    flags = [] if where == "inside" else ["-C", str((top / name).relative_to(here))]
    done = cli(here, *flags, "init", "--command", f"{sys.executable} train.py")
    assert done.returncode == 0, done.stderr
    offered = done.stderr.partition("`git")[2].partition("`")[0]
    subprocess.run(f"git{offered}", shell=True, cwd=here, check=True)
    assert git(top, "ls-files", name) == f"{name}/train.py"
    following = next(line for line in done.stdout.splitlines() if line.startswith("next: ")).removeprefix("next: ")
    subprocess.run(following, shell=True, cwd=here, check=True)
    assert "protocol.json" in git(top, "ls-files", name)
    then = next(line for line in done.stdout.splitlines() if line.startswith("then: ")).removeprefix("then: ")
    assert cli(here, *shlex.split(then)[1:], "--dry-run").returncode == 0
    assert shutil.which("autoresearch")
    assert shlex.split(then)[0] == "autoresearch"


def test_protocol_that_git_ignores_is_added_by_force(tmp_path: Path, cli: Cli) -> None:
    made = repository(tmp_path, {"train.py": f"RATE = 0.1\n{PRINTS}", ".gitignore": "*.json\n"})
    done = cli(made, "init")
    assert done.returncode == 0, done.stderr
    (command,) = [line.removeprefix("next: ") for line in done.stdout.splitlines() if line.startswith("next: ")]
    refused = cli(made, "run", "--tag", "t", "--max-experiments", "0")
    assert f"hint: run `{command}`, then run the same command again" in refused.stderr
    subprocess.run(command, shell=True, cwd=made, check=True)
    assert git(made, "show", "HEAD:protocol.json")


def test_glob_of_no_committed_file_is_named(tmp_path: Path, cli: Cli) -> None:
    made = repository(tmp_path, {"train.py": f"RATE = 0.1\n{PRINTS}"})
    done = cli(made, "init", "--command", "python train.py", "--mutable", "nothing/*.py")
    assert done.returncode == 3
    assert "error: no committed file matches --mutable 'nothing/*.py'\n" in done.stderr


def test_run_that_diverged_after_a_good_epoch_is_a_crash(tmp_path: Path, cli: Cli) -> None:
    train = (
        "LR = 0.1\n"
        "losses = [0.5, 0.4, 0.3] if LR == 0.1 else [0.2, float('nan'), float('nan')]\n"
        "for epoch, loss in enumerate(losses):\n"
        "    print(f'epoch {epoch}: train_loss {loss:.4f} val_loss {loss:.4f}')\n"
    )
    folder = repository(tmp_path / "net", {"train.py": train})
    assert cli(folder, "init", "--command", f"{sys.executable} train.py").returncode == 0
    git(folder, "add", "protocol.json")
    git(folder, "commit", "--quiet", "-m", "protocol")
    ran = cli(folder, "run", "--tag", "t", "--max-experiments", "2")
    assert ran.returncode == 0, ran.stderr
    assert [row["status"] for row in rows(folder)] == ["keep", "crash", "crash"]
    assert "val_loss is nan" in rows(folder)[1]["description"]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "prose", "name", "direction"),
    [
        (
            "accuracy: 0.9\n",
            "Trains a network that minimizes cross-entropy and prints its accuracy.",
            "accuracy",
            "maximize",
        ),
        (
            "val_loss: 1\nval_acc: 0.5\n",
            "Prints val_loss and val_acc (higher is better).",
            "val_loss",
            "minimize",
        ),
        ("val_loss: 1\n", "Trains the largest model and prints val_loss.", "val_loss", "minimize"),
        (
            "accuracy: 0.9\n",
            "The checkpoint with the lowest validation loss is kept and its accuracy is printed.",
            "accuracy",
            "maximize",
        ),
        ("latency: 3\n", "Optimized kernels: maximizes occupancy to reduce latency.", "latency", "minimize"),
        ("wer: 5.1\n", "Beam search with a larger beam, for which more is better, gives wer 5.1.", "wer", "minimize"),
        ("accuracy: 0.9\n", "Quantizes weights to minimize accuracy loss.", "accuracy", "maximize"),
        ("accuracy: 0.9\n", "Minimize `loss`; the accuracy is only printed.", "accuracy", "maximize"),
        # What is said of the name itself counts.
        ("accuracy: 0.9\n", "Attack: `accuracy` (lower is better) of the victim.", "accuracy", "minimize"),
        ("accuracy: 0.9\n", "| **accuracy** | lower is better |", "accuracy", "minimize"),
        ("accuracy: 0.9\n", "The goal: minimize the final `accuracy` of the victim.", "accuracy", "minimize"),
        ("accuracy: 0.9\n", "The metric to minimize is accuracy.", "accuracy", "minimize"),
        ("accuracy: 0.9\n", "The accuracy of the victim, accuracy, should be minimized.", "accuracy", "minimize"),
        ("accuracy: 0.9\n", "We minimize the validation accuracy of the victim.", "accuracy", "minimize"),
        ("accuracy: 0.9\n", "`accuracy`: share of attacks that fail (lower is better).", "accuracy", "minimize"),
        ("accuracy: 0.9\n", "| accuracy | of the victim | lower is better |", "accuracy", "minimize"),
        ("accuracy: 0.9\n", "`accuracy` - printed with the loss (lower is better).", "accuracy", "maximize"),
        ("accuracy: 0.9\n", "The lowest accuracy of three seeds is printed as accuracy.", "accuracy", "maximize"),
        # The direction of some names is only a habit.
        ("score: 0.9\n", "We minimize the validation score.", "score", "minimize"),
        ("score: 0.9\n", "Goal: get the lowest score.", "score", "minimize"),
        ("score: 0.9\n", "`score`: mean distance to the goal (lower is better).", "score", "minimize"),
        ("score: 0.9\n", "The score is a distance, so lower is better.", "score", "minimize"),
        ("score: 0.9\n", "The score is the mean error, so lower is better.", "score", "minimize"),
        ("score: 0.9\n", "| score | penalty sum | lower is better |", "score", "minimize"),
        ("score: 0.9\n", "Minimise the printed score.", "score", "minimize"),
        (
            "score: 0.9\n",
            "The final line `score: X` is what you minimize. Smaller is better.",
            "score",
            "minimize",
        ),
        ("cost: 0.9\n", "The cost is a saving that we maximize.", "cost", "maximize"),
        ("mean_return: 3\n", "Of mean_return, the return of the opponent, lower is better.", "mean_return", "minimize"),
        ("score: 0.9\n", "Trains a policy that minimizes the TD loss and prints its score.", "score", "maximize"),
        ("score: 0.9\n", "Prints the score and minimizes cross-entropy.", "score", "maximize"),
        ("score: 0.9\n", "Prints score and val_loss (lower is better).", "score", "maximize"),
        ("score: 0.9\n", "Prints val_loss (lower is better) and score.", "score", "maximize"),
        ("f1_score: 0.9\n", "Keeps what has the lowest spread and prints its f1_score.", "f1_score", "maximize"),
        # A name without a direction takes it from its sentence.
        ("gain: 3\n", "Prints the gain of the night; of several, the highest gain wins.", "gain", "maximize"),
        ("gain: 3\n", "Prints gain and sharpe (higher is better).", "gain", "maximize"),
    ],
)
def test_readme_overrides_the_direction_of_a_name_only_if_it_speaks_of_it(
    text: str, prose: str, name: str, direction: str
) -> None:
    found = {each.name: each for each in in_output(text)}
    chosen = choose_metric([found[name]], None, prose)
    assert chosen is not None
    assert (chosen.name, chosen.direction) == (name, direction)


def test_init_notes_that_the_readme_contradicts_the_name(tmp_path: Path, cli: Cli) -> None:
    readme = "`python train.py` attacks a model and prints `accuracy` (lower is better).\n"
    folder = repository(
        tmp_path / "attack", {"README.md": readme, "train.py": "RATE = 0.1\nprint('accuracy:', RATE)\n"}
    )
    done = cli(folder, "init")
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "protocol.json").read_text())["measurement"]["primaryMetric"]["direction"] == "minimize"
    assert "the README says minimize of accuracy, although its name says maximize" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("readme", "noted"),
    [
        ("It shows how the accuracy falls: the lowest wins.\n", True),
        ("Trains what minimizes cross-entropy and prints its accuracy.\n", False),
    ],
)
def test_init_notes_a_sentence_that_may_contradict_the_name(tmp_path: Path, cli: Cli, readme: str, noted: bool) -> None:
    folder = repository(tmp_path / "r", {"README.md": readme, "train.py": "RATE = 0.1\nprint('accuracy:', RATE)\n"})
    done = cli(folder, "init")
    assert done.returncode == 0, done.stderr
    said = "a sentence of the README with accuracy says minimize, although its name says maximize"
    assert (said in " ".join(done.stdout.split())) is noted


@pytest.mark.quick
@pytest.mark.parametrize(
    ("trial", "same", "other"),
    [
        ("latency: 800.0ms", "latency: 750.5ms", ["latency: 1.30s", "latency: 900us", "latency: 0.8"]),
        ("latency: 800.0 ms", "latency: 1,750.5 ms", ["latency: 1.30 s", "latency: 0.8"]),
        ("took 0.5 seconds", "took 1 second", ["took 500 milliseconds", "took 500ms", "took 2 minutes"]),
        ("peak memory: 950.0 MB", "peak memory: 20 MB", ["peak memory: 1.2 GB"]),
        ("throughput: 950.0 MB/s", "throughput: 951 MB/s", ["throughput: 1.2 GB/s", "throughput: 951 Mb/s"]),
        ("speed: 12.0 it/s", "speed: 11 it/s", ["speed: 1.2 s/it", "speed: 1.2s/it"]),
        ("throughput: 950.0 tok/s", "throughput: 1,200.5 tok/s", ["throughput: 1.2k tok/s", "throughput: 1.2 k tok/s"]),
        ("throughput: 1.2k tok/s", "throughput: 1.3k tok/s", ["throughput: 950 tok/s", "throughput: 1.1M tok/s"]),
        ("error: 54.4%", "error: 53%", ["error: 0.54", "error: 0.54 of all"]),
        ("| latency | 12 ms |", "| latency | 11 ms |", ["| latency | 0.9 s |", "| latency | 0.9 |"]),
        ("step 3 time=800ms lr=3", "step 3 time=80ms lr=3", ["step 3 time=1.2s lr=3", "step 3 time=1:02 lr=3"]),
        ("elapsed: 58.5 (all)", "elapsed: 12 (all)", ["elapsed: 1:02 (all)", "elapsed: 12:02", "elapsed: 500ms (all)"]),
        # A unit may be followed by another number, or by more words of its own.
        ("accuracy: 93.2%/98.2%", "accuracy: 94%/99%", ["accuracy: 0.93/0.98"]),
        ("latency: 12ms/15ms (p50/p99)", "latency: 11ms/12ms (p50/p99)", ["latency: 0.9s/1.2s (p50/p99)"]),
        ("memory: 1.5GB/8.0GB", "memory: 2GB/8.0GB", ["memory: 900MB/8.0GB"]),
        ("throughput: 950tok/s/gpu", "throughput: 1,951tok/s/gpu", ["throughput: 1.2ktok/s/gpu", "throughput: 9tok/s"]),
        ("rmse: 0.12m\u00b2", "rmse: 0.11m\u00b2", ["rmse: 9cm\u00b2", "rmse: 0.3m"]),
        ("speedup: 2.5x/1.0x", "speedup: 2.6x/1.0x", ["speedup: 250%/100%"]),
        ("time: 3.2s_total", "time: 3s_total", ["time: 900ms_total"]),
        ("val_loss=0.5:3", "val_loss=0.4:3", ["val_loss=nan"]),
        # The name of another number after a comma is no unit.
        ("loss=0.5,acc=0.9,lr=3", "loss=0.4,acc=0.9,lr=3", ["loss=nan,acc=0.9,lr=3", "loss=0.4k,acc=0.9,lr=3"]),
        ("time=12ms,n=3", "time=11ms,n=3", ["time=11,ms=3", "time=0.9s,n=3"]),
        # Both signs of a micro are one.
        ("latency: 12\u03bcs", "latency: 11\u00b5s", ["latency: 1ms", "latency: 9s", "latency: 0.8"]),
        ("latency: 12 \u03bcs", "latency: 11 \u03bcs", ["latency: 1 ms", "latency: 900 ns"]),
        ("latency: 900.0", "latency: 800", ["latency: 1.2\u03bcs", "latency: 1,200\u03bcs"]),
        ("throughput: 900.0", "throughput: 1,200", ["throughput: 1,200k", "throughput: 1.2k"]),
        ("all throughput: 900.0", "all throughput: 1,200", ["all throughput: 1,200k", "all throughput: 1.2k"]),
        (
            "all throughput 900.0 so far",
            "all throughput 1,200 of",
            ["all throughput 1,200k", "all throughput 1,200k of"],
        ),
        ("score: 10pts", "score: 1pt", ["score: 0.1", "score: 10%"]),
        # Words after a number that are no unit may differ.
        ("loss: 0.5 after 10 epochs", "loss: 0.4 in all", ["loss: nan after 10 epochs"]),
        ("val_loss: 0.5 ppl: 3", "val_loss: 0.4 *", ["val_loss: nan"]),
        ("accuracy: 0.9 samples/s 12", "accuracy: 0.8 samples/s 10", ["accuracy: none samples/s 10"]),
    ],
)
def test_number_in_another_unit_than_that_of_the_trial_is_no_metric(trial: str, same: str, other: list[str]) -> None:
    found = choose_metric(in_output(f"start\n{trial}\n"), None, "")
    assert found is not None
    metric = Metric.model_validate({"name": found.name, "direction": "minimize", "extract": found.extract})
    value = re.findall(r"\d[\d,.]*", same.removeprefix("step 3"))[0]
    assert extract(metric, f"begin\n{same}\n") == float(value.replace(",", ""))
    for line in other:
        # Neither this number counts, nor that of an earlier line.
        for log in (f"{line}\n", f"{same}\n{line}\n"):
            with pytest.raises(NoMetric):
                extract(metric, log)


@pytest.mark.quick
@pytest.mark.parametrize("text", ["elapsed: 1:02\n", "time 0:58\n", "total time = 1:02:03\n"])
def test_time_of_the_clock_is_no_number(text: str) -> None:
    assert choose_metric(in_output(text), None, "") is None


EPOCHS = [{"epoch": 0, "val_loss": 3.0}, {"epoch": 1, "val_loss": 2.0}]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("content", "wanted", "pointer"),
    [
        ({"history": EPOCHS, "final": {"val_loss": 2.0}}, None, "/final/val_loss"),
        ({"history": {"val_loss": [3.0, 2.0]}, "test_acc": 0.5}, None, "/test_acc"),
        ({"log_history": EPOCHS, "best": {"eval_loss": 2.0}}, None, "/best/eval_loss"),
        ({"history": EPOCHS, "final": {"val_loss": 2.0}}, "val_loss", "/final/val_loss"),
        ({"history": EPOCHS, "final": {"gain": 2.0}, "first": {"gain": 1.0}}, "final/gain", "/final/gain"),
        ({"history": EPOCHS, "final": {"gain": 2.0}, "first": {"gain": 1.0}}, "/final/gain", "/final/gain"),
        ({"history": EPOCHS}, "/history/0/val_loss", "/history/0/val_loss"),
        ({"folds": [0.5, 0.6], "mean": 0.55, "val_loss": [0.1]}, None, "/val_loss/0"),
        ({"results": [{"val_loss": 0.1, "seed": 3}]}, None, "/results/0/val_loss"),
        ({"history": {"val_loss": [3.0, 2.0]}, "accuracy": 0.5}, None, "/accuracy"),
        # A list of benchmarks has names.
        ({"benchmarks": [{"name": "sort", "real_time": 3.0}]}, None, "/benchmarks/0/real_time"),
    ],
)
def test_number_outside_of_a_list_of_epochs_is_the_metric(content: object, wanted: str | None, pointer: str) -> None:
    found = choose_metric(in_output(json.dumps(content)), wanted, "")
    assert found is not None
    assert found.extract["pointer"] == pointer
    assert not found.listed


@pytest.mark.parametrize("flags", [(), ("--metric", "val_loss")])
@pytest.mark.parametrize(
    "content",
    [
        {"val_loss": [3.0, 2.0]},
        {"log_history": EPOCHS, "train_runtime": 3.0},
        {"history": EPOCHS[:1]},
        {"history": EPOCHS, "train_loss": 0.1},
        {"history": EPOCHS, "errors": 0},
    ],
)
def test_init_refuses_a_metric_that_only_a_list_of_epochs_has(
    tmp_path: Path, cli: Cli, content: object, flags: tuple[str, ...]
) -> None:
    code = f"import json\nRATE = 0.1\njson.dump({content!r}, open('history.json', 'w'))\nprint('saved')\n"
    folder = repository(tmp_path / "epochs", {"train.py": code})
    done = cli(folder, "init", *flags)
    assert done.returncode == 1, done.stdout
    assert "`python train.py` gives val_loss only in a list (/" in done.stderr
    assert "hint: print the final number, such as `val_loss: 1.23`" in done.stderr
    assert not (folder / "protocol.json").exists()


RECIPE = {"train.py": "import net\nRATE = 0.1\nprint('val_loss:', RATE)\n", "net.py": "WIDTH = 1\n"}


@pytest.mark.quick
@pytest.mark.parametrize(
    ("command", "files", "harness"),
    [
        ("python make.py && python train.py", {"make.py": "import words\n", "words.py": ""}, {"make.py", "words.py"}),
        ("python prep.py; python train.py", {"prep.py": ""}, {"prep.py"}),
        (
            "python train.py && python report.py",
            {"report.py": "import net, tables\n", "tables.py": ""},
            {"report.py", "tables.py"},
        ),
        ("bash run.sh", {"run.sh": "set -e\npython train.py --size big\n"}, {"run.sh"}),
        (
            "./run.sh",
            {"run.sh": "python make.py || exit 1\npython \\\n  train.py\n", "make.py": ""},
            {"run.sh", "make.py"},
        ),
        (
            "bash run.sh",
            {"run.sh": 'cd "$(dirname "$0")"\nexec bash go.sh # it\n', "go.sh": 'python "$DIR"/train.py\n'},
            {"run.sh", "go.sh"},
        ),
        ("SEED=1 python -m train", {}, set()),
        # A file that a script is given is none that it runs.
        ("python train.py config.py", {"config.py": "WIDTH = 1\n"}, set()),
    ],
)
def test_all_scripts_of_a_command_are_known(command: str, files: dict[str, str], harness: set[str]) -> None:
    whole = {**RECIPE, **files}
    found = surface(candidate_named(command, whole), whole, [], False)
    assert {*found.mutable} == {"train.py", "net.py"}
    assert {*found.harness} == harness


@pytest.mark.quick
def test_script_is_found_in_the_folder_that_a_command_enters() -> None:
    files = {f"ml/{name}": text for name, text in RECIPE.items()} | {"other.py": "", "ml/run.sh": "python train.py\n"}
    for command in ("cd ml && python train.py", "cd ml; bash run.sh", "bash ml/run.sh"):
        assert {*surface(candidate_named(command, files), files, [], False).mutable} == {"ml/train.py", "ml/net.py"}


@pytest.mark.quick
@pytest.mark.parametrize(
    "name",
    [
        *(
            "load_data",
            "data_utils",
            "eval_utils",
            "utils_eval",
            "splits",
            "make_splits",
            "gen",
            "gen_rows",
            "my_metrics",
        ),
        *("loader", "loadData", "DataLoader", "eval_model", "model_evaluation", "data/rows", "pkg/eval/run"),
    ],
)
def test_file_named_for_data_or_evaluation_in_part_must_not_change(name: str) -> None:
    module = name.replace("/", ".")
    files = {
        "train.py": f"import net, {module}\nRATE = 0.1\nprint('val_loss:', RATE)\n",
        "net.py": "",
        f"{name}.py": "",
    }
    found = surface(candidate_named("python train.py", files), files, [], False)
    assert (found.mutable, found.harness) == (("net.py", "train.py"), (f"{name}.py",))


@pytest.mark.quick
@pytest.mark.parametrize(
    "name",
    [
        *("generator", "gan_generator", "database", "metadata", "data_parallel", "split_attention"),
        *(
            "metric_learning",
            "data_augmentation",
            "medieval",
            "trainer",
            "genetic",
            "retrieval",
            "scores/net",
        ),
    ],
)
def test_file_with_such_a_part_in_a_longer_word_or_of_a_model_may_change(name: str) -> None:
    module = name.replace("/", ".")
    files = {"train.py": f"import {module}\nRATE = 0.1\nprint('val_loss:', RATE)\n", f"{name}.py": ""}
    found = surface(candidate_named("python train.py", files), files, [], False)
    assert f"{name}.py" in found.mutable


@pytest.mark.quick
@pytest.mark.parametrize(
    "name",
    ["string_split", "data_store", "split", "json_data_parser", "data/frame", "metrics/median", "eval/expression"],
)
@pytest.mark.parametrize("script", ["bench.py", "perf_it.py", "benchmarks/speed.py"])
def test_library_that_a_benchmark_measures_may_change_whatever_its_name(name: str, script: str) -> None:
    files = {script: f"import {name.replace('/', '.')}\nprint('time: 0.3')\n", f"{name}.py": "X = 1\n"}
    found = surface(candidate_named(f"python {script}", files), files, [], False)
    assert (found.mutable, found.harness) == ((f"{name}.py",), (script,))


@pytest.mark.quick
def test_benchmark_does_not_change_while_it_reads_another_file() -> None:
    files = {"bench.py": "import lib_bench\nprint('time: 0.3')\n", "lib_bench.py": ""}
    found = surface(candidate_named("python bench.py", files), files, [], False)
    assert (found.mutable, found.harness) == (("lib_bench.py",), ("bench.py",))
    files = {"bench.py": "import lib_bench, sort\nprint('time: 0.3')\n", "lib_bench.py": "", "sort.py": ""}
    found = surface(candidate_named("python bench.py", files), files, [], False)
    assert (found.mutable, found.harness) == (("sort.py",), ("bench.py", "lib_bench.py"))
    files = {"bench.py": "import reference\nprint('time: 0.3')\n", "reference.py": ""}
    assert surface(candidate_named("python bench.py", files), files, [], False).mutable == ()
    files = {"benchmarks/run.py": "import string_split\nprint('time: 0.3')\n", "string_split.py": ""}
    assert "string_split.py" in surface(candidate_named("python benchmarks/run.py", files), files, [], False).mutable


@pytest.mark.quick
@pytest.mark.parametrize("command", ["make bench", "cargo bench", "go test -bench .", "npm test"])
def test_library_that_a_command_of_another_language_measures_may_change(command: str) -> None:
    files = dict.fromkeys(["src/data_store.rs", "src/split.rs", "data/frame.rs", "benches/b.rs"], "")
    found = surface(candidate_named(command, files), files, [], False)
    assert {*found.mutable} == {*files} - {"benches/b.rs"}


@pytest.mark.quick
@pytest.mark.parametrize("name", ["data/net", "eval/model", "dataset_search", "split_finder"])
def test_only_module_of_a_training_that_is_named_for_a_model_may_change(name: str) -> None:
    files = {"train.py": f"import {name.replace('/', '.')}\nprint('loss: 1')\n", f"{name}.py": "RATE = 0.1\n"}
    found = surface(candidate_named("python train.py", files), files, [], False)
    assert f"{name}.py" in found.mutable


def test_init_names_files_that_are_fixed_by_name_or_also_run(tmp_path: Path, cli: Cli) -> None:
    files = {
        "train.py": "import gen\nRATE = 0.1\nprint('loss:', RATE)\n",
        "gen.py": "",
        "embed.py": "",
        "run.sh": "python embed.py\npython train.py\n",
    }
    done = cli(repository(tmp_path / "named", files), "init", "--command", "bash run.sh")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "gen.py must not change, because of the name; change: --mutable GLOB" in said
    assert "embed.py, run.sh must not change, because `bash run.sh` runs more than train.py" in said


@pytest.mark.quick
@pytest.mark.parametrize(
    ("stages", "mutable"),
    [
        (["pretrain.py", "finetune.py"], {"pretrain.py", "finetune.py"}),
        (["make_train_set.py", "train1.py", "train2.py"], {"train1.py", "train2.py"}),
        (["train_tokenizer.py", "fit.py", "evaluate.py"], {"train_tokenizer.py", "fit.py"}),
        (["load_train_data.py", "pretrain_data.py", "post_train.py"], {"post_train.py"}),
        (["fit_model.py", "report.py"], {"fit_model.py"}),
    ],
)
def test_all_stages_of_a_training_may_change(stages: list[str], mutable: set[str]) -> None:
    files = {**dict.fromkeys(stages, "print('loss: 1')\n"), "run.sh": "".join(f"python {name}\n" for name in stages)}
    for command in ("bash run.sh", " && ".join(f"python {name}" for name in stages)):
        found = surface(candidate_named(command, files), files, [], False)
        assert {*found.mutable} == mutable
        assert {*found.harness} == {*stages, *(["run.sh"] if "sh" in command.split()[0] else [])} - mutable


@pytest.mark.quick
@pytest.mark.parametrize(
    ("line", "runs"),
    [
        *((line, False) for line in ("ruff check net.py", "uv run ruff check net.py", "cp net.py old.py")),
        *((line, False) for line in ("cat net.py | wc", "git commit -m net", "black -q net.py", "echo python: net.py")),
        *((line, True) for line in ("./net.py", "net.py", "python -u net.py", "uv run --with numpy net.py")),
        *((line, True) for line in ("A=1 timeout 60 python3.12 net.py", "torchrun --nproc_per_node 2 net.py")),
        *((line, True) for line in ("time .venv/bin/python net.py", "if ./net.py; then true; fi", "nohup ./net.py &")),
        *((line, True) for line in ("python -m net", "python -m torch.distributed.run net.py", "uv run -m net")),
        *((line, True) for line in ("docker run --rm image python net.py", "conda run -n env python net.py")),
    ],
)
def test_path_counts_as_run_only_first_or_after_an_interpreter(line: str, runs: bool) -> None:
    files = {"run.sh": f"{line}\n", "net.py": ""}
    assert scripts_of("bash run.sh", files) == (["run.sh", "net.py"] if runs else ["run.sh"])


@pytest.mark.quick
@pytest.mark.parametrize(
    ("command", "source", "fixed"),
    [
        (
            "npm test",
            "src/sum.js",
            [
                "package.json",
                "__tests__/sum.test.js",
                "__tests__/help.js",
                "src/sum.spec.js",
                "web/a.test.tsx",
                "test/a.js",
            ],
        ),
        ("make bench", "src/sum.c", ["Makefile", "benches/speed.c", "bench/b.cpp", "src/sum_test.cc", "tests/t.cpp"]),
        ("cargo bench", "src/lib.rs", ["Cargo.toml", "build.rs", "benches/b.rs", "tests/t.rs"]),
        ("go test -bench .", "sum.go", ["go.mod", "sum_test.go"]),
        ("./gradlew test", "src/main/Sum.java", ["src/test/SumTest.java"]),
    ],
)
def test_tests_and_benchmarks_of_other_languages_must_not_change(command: str, source: str, fixed: list[str]) -> None:
    files = dict.fromkeys([source, *fixed], "")
    found = surface(candidate_named(command, files), files, [], False)
    assert found.mutable == (source,)
    protected = (*found.harness, *found.forbidden)
    assert [path for path in fixed if not any(matches(path, glob) for glob in protected)] == []


@pytest.mark.quick
@pytest.mark.parametrize(
    "files",
    [
        *(
            {"README.md": f"{line}\n"}
            for line in (
                "`util.py` does not modify your input files.",
                "`util.py` never changes the data folder.",
                "Running util.py will not change anything in your system.",
                "Results of util.py do not change between runs with the same seed.",
                "`util.py` contains the frozen backbone and the trainable head.",
                "The encoder in `util.py` is frozen; only the head is trained.",
                "You can change the rate in util.py; do not forget to set a seed.",
                "You may not modify or redistribute `util.py` without a license.",
                "Input files are not modified by util.py.",
                "`util.py` loads read-only arrays.",
                "`train.py` does not modify `util.py`.",
                "`util.py`: frozen encoder with a trainable head.",
                "- `util.py`: read-only arrays of rows",
                "`util.py` must not modify its input.",
                "Edit `util.py` and do not change the data.",
                "Tune the rates in `util.py`, but you must not change the rows.",
                "Do not change the data, edit `util.py` instead.",
                "Run `python util.py` and do not touch the rows.",
                "The rows must not be modified by `util.py`.",
                "The encoder in `util.py` must not change its input.",
            )
        ),
        *(
            {"util.py": f'"""{said}"""\n'}
            for said in (
                "Train a head on a frozen encoder.",
                "The embedding table is immutable during training.",
                "The model. Parameters of frozen layers are read-only.",
                "Does not modify its arguments.",
                "You may not modify or redistribute this file except under the License.",
            )
        ),
    ],
)
def test_sentence_about_something_else_fixes_no_file(files: dict[str, str]) -> None:
    whole = {"train.py": MODEL, "model.py": "RATE = 1\n", "util.py": "x = 1\n", "prepare_it.py": "", **files}
    found = surface(candidate_named("python train.py", whole), whole, [], False)
    assert found.mutable == ("model.py", "train.py", "util.py")


@pytest.mark.quick
@pytest.mark.parametrize(
    "files",
    [
        *(
            {"README.md": f"{line}\n"}
            for line in (
                "Please do not edit the helpers (`util.py`).",
                "Treat `util.py` as read-only.",
                "`util.py` is frozen.",
                "`prepare_it.py` and `util.py` are read-only.",
                "- Modify `util.py`. It is read-only.",
                "- `util.py` - constants and helpers (do not modify)",
                "Agents must not modify or delete `util.py`.",
                "Do not touch anything in `util.py`!",
                "`util.py` is not to be edited by agents.",
                "The agent should not modify the evaluation in `util.py`.",
                "The helpers (`util.py`) are fixed and must not be modified by the agent.",
                "Do not modify the model definition in `util.py`.",
                "Edit `train.py` freely but leave `util.py` untouched; it must not change between runs.",
                "Edit `train.py` freely. Leave `util.py` untouched.",
                "`util.py` holds the rows; it must not change between runs.",
                "`util.py`: frozen copy of the reference network.",
                "| `util.py` | frozen copy |",
                "`util.py` is a frozen copy of the reference.",
                "In `util.py`, do not change the interface.",
                "The evaluation that util.py holds must never be changed.",
                "The scores of `util.py` should not change.",
                "You must not change how `util.py` counts.",
                "Agents should never edit the constants or helpers of `util.py`.",
                "Never touch the fixed table that is in util.py by hand.",
            )
        ),
        *(
            {"util.py": f'"""{said}"""\n'}
            for said in (
                "Helpers (read-only).",
                "Helpers. This file is immutable.",
                "You must not change this file.",
                "Do not edit by hand.",
                "Helpers. Do not modify manually!",
                "Helpers: must not change between runs.",
            )
        ),
    ],
)
def test_order_about_a_file_fixes_it(files: dict[str, str]) -> None:
    whole = {"train.py": MODEL, "model.py": "RATE = 1\n", "util.py": "x = 1\n", "prepare_it.py": "", **files}
    found = surface(candidate_named("python train.py", whole), whole, [], False)
    assert found.mutable == ("model.py", "train.py")


def test_init_names_the_sentence_that_fixes_a_file(tmp_path: Path, cli: Cli) -> None:
    files = {"train.py": '"""Train. Do not modify this file."""\nimport net\nprint("loss:", net.RATE)\n'}
    folder = repository(tmp_path / "one", {**files, "net.py": "RATE = 0.1\n"})
    done = cli(folder, "init")
    assert done.returncode == 0, done.stderr
    assert "train.py must not change, because of 'Do not modify this file.'" in " ".join(done.stdout.split())
    alone = repository(tmp_path / "two", {"train.py": files["train.py"].replace("net", "math").replace("RATE", "pi")})
    refused = cli(alone, "init")
    assert refused.returncode == 3
    assert "train.py is fixed by 'Do not modify this file.'" in refused.stderr


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("Benchmark     Time     CPU   Iterations\nBM_Sort/1024    {} ns     106050 ns    6600\n", "bm_sort", 2106.5),
        ("goos: linux\nBenchmarkSum-8   1000000    {} ns/op      0 B/op     0 allocs/op\n", "benchmarksum_ns_op", 1034),
        (
            "  Time (mean ± \u03c3):     {} ms ±   1.2 ms    [User: 100.0 ms, System: 20.0 ms]\n"
            "  Range (min … max):   121.0 ms … 126.0 ms    23 runs\n",
            "time",
            123.4,
        ),
        (
            " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=  1 ] = {}\n"
            " Average Precision  (AP) @[ IoU=0.50      | area=   all | maxDets=  1 ] = 0.581\n",
            "average_precision",
            0.367,
        ),
        ("epoch 3 ms {}\n", "ms", 12.5),
    ],
)
def test_number_of_a_benchmark_is_read_before_its_unit(text: str, name: str, value: float) -> None:
    found = {each.name: each for each in in_output(text.format(value))}
    assert found[name].value == value
    assert found[name].direction is not None
    metric = Metric.model_validate(found[name].metric)
    assert extract(metric, text.format(7.25)) == 7.25


@pytest.mark.quick
@pytest.mark.parametrize(
    "text",
    [
        "sort 106060 ns   106050 ns   6600\n",
        "| llama 7B Q4_0 | 3.56 GiB | 6.74 B | CPU | 8 | tg128 | 12.34 |\n",
        "allocated 12 MB 8 blocks\n",
        "121.0 ms … 126.0 ms    23 runs\n",
        "Recall @[ IoU=0.50 | maxDets=100 ] = many\n",
    ],
)
def test_unit_of_the_number_before_it_is_no_name(text: str) -> None:
    assert choose_metric([each for each in in_output(text) if each.name != "sort"], None, "") is None


@pytest.mark.quick
@pytest.mark.parametrize(
    "lines",
    [
        ["A" * 20_000],
        ["A" * 3000] * 300,
        [f"Benchmark{'a' * 1900}"] * 300,
        [f"Benchmark{'/' * 1900}"] * 100,
        ["A " * 900] * 200,
        [f"{'a ' * 900}time: ["] * 100,
        ["1 " * 900] * 100,
        [f"BM_{number % 7} 1 ns 1 ns {number}" for number in range(3000)],
    ],
)
def test_long_lines_take_no_time(lines: list[str]) -> None:
    began = time.process_time()
    found = in_output("\n".join(["loss: 0.5", *lines, "val_loss: 0.3", ""]))
    assert "val_loss" in {each.name for each in found}
    assert time.process_time() - began < 3


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("epoch 1 time: 900ms\nepoch 2 time: 950ms\ntotal time: 1.85s\n", "total_time", 1.85),
        ("epoch 1 accuracy: 80.0%\nepoch 2 accuracy: 81.0%\nbest accuracy: 0.81\n", "best_accuracy", 0.81),
    ],
)
def test_name_whose_last_number_has_another_unit_is_not_read_from_an_earlier_line(
    text: str, name: str, value: float
) -> None:
    found = choose_metric(in_output(text), None, "")
    assert found is not None
    assert (found.name, found.value) == (name, value)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("[train loss=0.1] [val loss=0.6] : saved\n", "val_loss"),
        ("Results [val_loss: 0.4]: acc=0.9\n", "val_loss"),
        ("[val_loss=0.6, val_acc=0.5] = result\n", "val_loss"),
    ],
)
def test_number_in_brackets_before_a_sign_counts(text: str, name: str) -> None:
    found = choose_metric(in_output(text), None, "")
    assert found is not None
    assert found.name == name


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sort    time:   [12.1 ms {} ms 12.5 ms]\n", "sort_time"),
        ("sort/1024\n          time:   [998.1 \u00b5s {} ms 1.0211 ms]\n", "time"),
        ("n=1024, ms {}\n", "ms"),
        ("n 1024, ms {} of all\n", "ms"),
        ("matmul 1024 ms {}\n", "ms"),
        ("model v2 seconds {}\n", "seconds"),
        ("| 512 | ms | {} |\n", "ms"),
    ],
)
def test_number_after_a_unit_counts_if_the_one_before_it_has_a_name(text: str, name: str) -> None:
    found = choose_metric(in_output(text.format(12.3)), None, "")
    assert found is not None
    assert (found.name, found.value, found.direction) == (name, 12.3, "minimize")
    assert extract(Metric.model_validate(found.metric), text.format(7.25)) == 7.25
