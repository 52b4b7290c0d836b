"""What `field` says about a machine, and what it hides."""

from __future__ import annotations

import getpass
import json
import socket
from pathlib import Path

import pytest

from agent.field.machine import device_line, mac_facts, public

pytestmark = pytest.mark.quick

DISPLAYS = {
    "SPDisplaysDataType": [
        {
            "_name": "Apple M4",
            "spdisplays_mtlgpufamilysupport": "spdisplays_metal3",
            "spdisplays_ndrvs": [{"_name": "Color LCD"}],
            "sppci_cores": "10",
        }
    ]
}
POWER = "System-wide power settings:\nCurrently in use:\n displaysleep         10\n lowpowermode         1\n"


def test_mac_names_gpu_display_and_power_mode_but_no_monitor() -> None:
    assert mac_facts(json.dumps(DISPLAYS), POWER) == {
        "gpu": "10 GPU cores, Metal 3",
        "display": "1 connected, sleeps after 10 min",
        "power mode": "low",
    }


def test_mac_without_display_has_none_connected() -> None:
    cards = {"SPDisplaysDataType": [{"sppci_cores": "10"}]}
    assert mac_facts(json.dumps(cards), "")["display"] == "none connected"


@pytest.mark.parametrize("said", ["", "no", "[]", '{"SPDisplaysDataType": [3]}', '{"SPDisplaysDataType": null}'])
def test_unknown_output_of_a_mac_is_left_out(said: str) -> None:
    assert mac_facts(said, "nothing") == {}


def test_device_is_described_by_known_figures_only() -> None:
    info = {
        "device_name": "Apple M4",
        "max_recommended_working_set_size": 12 * 2**30,
        "max_buffer_length": 9 * 2**30,
        "resource_limit": 499000,
        "uuid": "GPU-1234",
    }
    assert device_line(info) == "Apple M4, working set 12.0 GB, largest buffer 9.0 GB"
    assert device_line({}) == ""


def test_folders_and_names_are_removed_from_a_text() -> None:
    text = f"crashed: {Path.home()}/private/data.bin not found by {getpass.getuser()} on {socket.gethostname()}"
    shown = public(text)
    assert shown.startswith("crashed: data.bin not found by ")
    assert str(Path.home()) not in shown
    assert getpass.getuser() not in shown
    assert socket.gethostname() not in shown.split()


def test_folders_with_spaces_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert public("no '/Users/Jane Doe/private plan/x.bin' here") == "no 'x.bin' here"
    (folder := tmp_path / "private plan (secret)").mkdir()
    monkeypatch.chdir(folder)
    assert public(f"{folder}/train.py failed") == "train.py failed"


def test_fractions_and_words_stay() -> None:
    assert public("3/4 of the steps/s, and/or 1.5 GB") == "3/4 of the steps/s, and/or 1.5 GB"
